"""What requests cost, and how that is written down so that nothing is lost or counted twice."""
