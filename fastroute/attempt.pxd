from fastroute.context cimport Context
from fastroute.upstream.endpoint cimport Endpoint
