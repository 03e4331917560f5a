"""The 73 defects of the pseudocode that this routing system began as: what would catch each, or why it cannot occur.

A test is named as pytest names it, file::function. Where nothing can go wrong that a test could show, a line of the
code or the documentation is quoted that says why.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).parents[3]


class Line(NamedTuple):
    """A fragment of a file, and why it settles the matter."""

    file: str
    fragment: str
    why: str


class Defect(NamedTuple):
    """What was wrong, in a few words, and what answers for it."""

    what: str
    tests: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()


PLAN = "tests/unit/routing/test_plan.py"
POOL = "tests/unit/routing/test_pool.py"
RULES = "tests/unit/routing/test_rules.py"
TABLE = "tests/unit/routing/test_table.py"
EXPLAIN = "tests/unit/routing/test_explain.py"
REFUSALS = "tests/unit/routing/test_refusals.py"
CLASSIFY = "tests/unit/failover/test_classify.py"
BUDGET = "tests/unit/failover/test_retry_budget.py"
BACKOFF = "tests/unit/failover/test_backoff.py"
RETRIES = "tests/behaviour/test_retries.py"
SIMULATION = "tests/behaviour/test_simulation.py"
INFLIGHT = "tests/unit/load/test_inflight.py"
WISHES = "tests/unit/downstream/test_wishes.py"
ATTEMPTS = "tests/unit/core/test_attempts.py"
BREAKER = "tests/unit/core/test_breaker.py"
CANDIDATES = "tests/unit/core/test_candidates.py"
COUNTERS = "tests/unit/core/test_counters.py"
SELECTION = "tests/unit/core/test_selection.py"
QUANTILE = "tests/unit/core/test_quantile.py"
CHEAPEST = "tests/unit/core/test_cheapest.py"
BANDIT = "tests/unit/core/test_bandit.py"
WINDOW = "tests/unit/core/test_time_window.py"
PLAIN = "tests/unit/balance/test_plain.py"
LATENCY = "tests/unit/balance/test_least_latency.py"
ADAPTIVE = "tests/unit/balance/test_adaptive.py"
COST = "tests/unit/balance/test_cost_optimized.py"
RELOAD = "tests/e2e/test_reload.py"
BREAKER_HTTP = "tests/e2e/test_breaker_http.py"
SHARES = "tests/e2e/test_routing_shares.py"
FAILOVER = "tests/e2e/test_failover.py"
FAILOVER_MORE = "tests/e2e/test_failover_more.py"

DEFECTS: Final[dict[int, Defect]] = {
    1: Defect(
        "two copies of one provider: what is counted at one is not seen at the other",
        (
            f"{INFLIGHT}::test_it_is_counted_in_and_out_whatever_the_verdict",
            f"{RELOAD}::test_counters_of_what_stays_live_on",
        ),
        (
            Line(
                "fastroute/upstream/endpoint.py",
                "live in the shared segment, under `index`",
                "one row, however often referred to",
            ),
        ),
    ),
    2: Defect(
        "in-flight counts leak when a request is cancelled, and underflow when it is recorded twice",
        (
            f"{INFLIGHT}::test_only_the_first_release_counts",
            f"{INFLIGHT}::test_nothing_is_left_after_any_order_of_events",
            "tests/behaviour/test_cancellation.py::test_nothing_is_left_behind",
            f"{COUNTERS}::test_a_killed_worker_is_cleared",
            f"{BREAKER_HTTP}::test_storms_and_departures_leave_no_permit",
            "tests/unit/test_rows.py::test_a_free_row_is_used_again_when_it_is_quiet",
        ),
    ),
    3: Defect(
        "an open breaker is looked at again only in a total outage",
        (
            f"{PLAN}::test_an_open_breaker_is_probed_although_others_are_well",
            f"{BREAKER_HTTP}::test_it_closes_after_enough_probes_and_has_its_share_again",
        ),
    ),
    4: Defect(
        "a breaker is ignored while other providers are well",
        (
            f"{PLAN}::test_breaker_and_cooldown_are_gates_before_any_strategy",
            f"{CANDIDATES}::test_breaker",
            f"{BREAKER_HTTP}::test_a_failing_endpoint_has_less_than_a_hundredth_after_two_seconds",
        ),
    ),
    5: Defect(
        "half-open lets everybody through, and its transition races",
        (
            f"{BREAKER}::test_half_open_lets_in_exactly_so_many",
            f"{BREAKER}::test_of_two_that_want_the_only_probe_one_gets_it",
            "tests/unit/core/test_attempts_processes.py::test_all_together_have_so_many_probes",
            f"{BREAKER_HTTP}::test_one_probe_in_total",
        ),
    ),
    6: Defect(
        "counts are reset on the way: a failed probe does not reopen, and half of all requests may fail for ever",
        (
            f"{BREAKER}::test_a_failed_probe_opens_it_for_longer",
            f"{BREAKER}::test_a_rate_of_failures_opens_it_from_the_minimum_volume_on",
        ),
    ),
    7: Defect(
        "one success closes a breaker, even one from before it opened",
        (
            f"{BREAKER}::test_probes_that_go_well_close_it",
            f"{BREAKER}::test_a_result_from_before_the_trip_moves_nothing",
            f"{BREAKER}::test_when_it_closes_the_window_is_empty_and_a_slow_start_begins",
            f"{BREAKER_HTTP}::test_a_success_from_before_does_not_close_it",
        ),
    ),
    8: Defect(
        "whatever is no success counts as a failure: one bad client shuts a provider for all",
        (
            f"{CLASSIFY}::test_one_bad_client_never_opens_a_breaker",
            f"{CLASSIFY}::test_a_client_that_left_is_nobodys_fault",
            f"{BREAKER}::test_what_is_not_the_endpoints_fault_opens_nothing",
            f"{BREAKER_HTTP}::test_a_refused_request_opens_no_breaker",
            f"{BREAKER_HTTP}::test_a_caller_in_a_hurry_opens_no_breaker",
            f"{RETRIES}::test_what_is_the_requests_fault_is_sent_nowhere_else_and_blames_nobody",
        ),
    ),
    9: Defect(
        "late failures keep a breaker open; the open time neither grows nor varies",
        (
            f"{BREAKER}::test_late_failures_do_not_keep_it_open",
            f"{BREAKER}::test_the_open_time_is_lengthened_at_random",
            f"{BREAKER}::test_the_open_time_doubles_with_every_trip_in_a_row_up_to_the_most",
        ),
    ),
    10: Defect(
        "money in three units that contradict each other",
        (
            "tests/unit/billing/test_money.py::test_every_price_of_six_decimals_is_exact",
            "tests/unit/billing/test_cost.py::test_cost_equals_exact_arithmetic",
            f"{PLAN}::test_the_lower_ceiling_on_the_price_holds",
            f"{EXPLAIN}::test_prices_and_the_chain",
        ),
    ),
    11: Defect(
        "a budget is checked first and charged later, so that concurrent requests overshoot it",
        (f"{PLAN}::test_a_ceiling_on_the_price_lets_nobody_through_whose_price_is_unknown",),
        (
            Line(
                "docs/configuration.md",
                "Checked, but not acted on by this version",
                "there is a ceiling per request, which shares nothing",
            ),
        ),
    ),
    12: Defect(
        "the month's spending is never reset; small costs are cut to nothing, in floating point",
        (
            "tests/unit/billing/test_cost.py::test_rounding_happens_once_per_row",
            "tests/unit/billing/test_money.py::test_half_a_nano_rounds_up",
        ),
        (Line("docs/configuration.md", "Checked, but not acted on by this version", "no counter of a month is kept"),),
    ),
    13: Defect(
        "tokens by a quarter of each message's length: small ones are free, and much is left out",
        (
            f"{PLAN}::test_estimates_are_of_the_whole_body_and_learn_from_answers",
            f"{PLAN}::test_small_and_foreign_text_counts_for_something",
        ),
    ),
    14: Defect(
        "out of budget is said where only a single request is too dear",
        (f"{REFUSALS}::test_no_two_stages_sound_the_same", f"{REFUSALS}::test_refusals"),
    ),
    15: Defect(
        "a preferred provider is moved to the front of a list whose order most strategies ignore",
        (
            f"{PLAN}::test_preference_is_not_a_matter_of_the_strategy",
            f"{PLAN}::test_the_order_is_the_requests_then_the_tenants",
            f"{CANDIDATES}::test_a_preferred_provider_comes_before_any_tier",
        ),
    ),
    16: Defect(
        "an empty list of allowed providers forbids all; a tenant nobody knows may do everything",
        (
            f"{PLAN}::test_an_unknown_tenant_finds_no_model_once_tenants_are_listed",
            "tests/unit/routing/test_tenants.py::test_once_there_are_tenants_an_unknown_one_may_nothing",
            "tests/unit/config/test_references.py::test_tenants_that_nobody_has",
        ),
        (
            Line(
                "fastroute/config/schema.py",
                'allowed_providers: Annotated[tuple[Label, ...], Meta(min_length=1)] = ("*",)',
                "all are meant by `*` only, and an empty list is refused",
            ),
        ),
    ),
    17: Defect(
        "a tenant's strategy and its price limit are never applied",
        (
            f"{PLAN}::test_the_strategy_is_the_rules_then_the_tenants_then_the_routes_then_everybodys",
            f"{PLAN}::test_the_lower_ceiling_on_the_price_holds",
        ),
    ),
    18: Defect(
        "capabilities, windows, regions and deadlines are declared and not enforced",
        (
            f"{PLAN}::test_an_endpoint_that_cannot_serve_the_request_is_no_candidate",
            f"{PLAN}::test_regions",
            f"{RETRIES}::test_no_attempt_begins_after_the_deadline",
            f"{FAILOVER_MORE}::test_the_callers_deadline_spans_all_attempts",
        ),
    ),
    19: Defect(
        "two sets of excluded providers, of which one counts, and failover fills neither",
        (
            f"{PLAN}::test_excluded_providers_are_no_candidates",
            f"{PLAN}::test_a_step_without_a_model_is_for_the_one_that_was_asked_for_and_nobody_is_tried_twice",
            f"{CANDIDATES}::test_tried",
        ),
    ),
    20: Defect(
        "aliases are followed once, in circles, or to nowhere",
        (
            "tests/unit/config/test_references.py::test_aliases",
            f"{TABLE}::test_an_alias_is_its_target_under_another_name",
        ),
    ),
    21: Defect(
        "readers see half an update; who is removed leaves state that a namesake inherits",
        (
            f"{RELOAD}::test_a_request_ends_on_the_snapshot_it_began_with",
            f"{RELOAD}::test_providers_come_and_go",
            "tests/unit/test_rows.py::test_rows_are_never_shared",
            "tests/unit/config/test_crosscheck.py::test_providers",
            f"{POOL}::test_endpoints_that_stay_keep_what_was_learnt_of_them",
        ),
    ),
    22: Defect(
        "a lock for writing is taken at every request by what is called lock-free",
        (f"{COUNTERS}::test_words_and_cells_are_exact_between_processes",),
        (
            Line(
                "fastroute/_core/_attempts_py.py", "Changes of a cell are compare-and-swap", "there is no lock to take"
            ),
        ),
    ),
    23: Defect(
        "latencies are counted since the start, so that nothing is ever forgotten",
        (
            f"{QUANTILE}::test_a_minute_is_forgotten_window_by_window",
            f"{ATTEMPTS}::test_health_is_of_the_window",
            f"{LATENCY}::test_a_change_is_followed_within_a_minute",
        ),
    ),
    24: Defect(
        "health is kept twice, and the copy that is read is never written",
        (
            f"{EXPLAIN}::test_the_gate_of_everybody_who_is_out",
            f"{PLAN}::test_breaker_and_cooldown_are_gates_before_any_strategy",
        ),
    ),
    25: Defect(
        "a latency nobody has measured is expected to be nothing",
        (
            f"{EXPLAIN}::test_nobody_knows_how_long_a_stranger_takes",
            f"{ATTEMPTS}::test_but_only_until_its_first_request_is_under_way",
            f"{QUANTILE}::test_nothing_seen",
        ),
    ),
    26: Defect(
        "strategies that the configuration knows are not registered",
        (
            "tests/unit/config/test_references.py::test_strategies",
            f"{PLAIN}::test_every_name_of_the_configuration_is_registered",
            f"{PLAIN}::test_an_idle_pool_is_shared_by_weight",
            f"{WINDOW}::test_everybody_in_turn_whatever_the_weight",
            f"{SHARES}::test_every_strategy_serves_and_lets_go",
        ),
    ),
    27: Defect(
        "every strategy learns from everything, under the provider's name, whatever the model or pool",
        (
            f"{POOL}::test_pools_share_no_strategy",
            f"{POOL}::test_only_strategies_that_learn_are_told",
            f"{BREAKER}::test_one_endpoints_breaker_is_no_other_ones",
        ),
    ),
    28: Defect(
        "one turn for all models: two of them pin each other, and the neighbour of a failed host gets its share",
        (
            f"{PLAIN}::test_pools_that_take_turns_do_not_pin_each_other",
            f"{PLAIN}::test_every_worker_begins_at_a_place_of_its_own",
            f"{PLAIN}::test_the_neighbour_of_one_that_is_out_gets_no_double_share",
            f"{SELECTION}::test_round_robin_is_fair_after_every_pick",
        ),
    ),
    29: Defect(
        "weighted turns drift: signed sums in unsigned numbers, shared by sets that differ",
        (
            f"{SELECTION}::test_smooth_sequence_of_nginx",
            f"{SELECTION}::test_smooth_invariants",
            f"{SELECTION}::test_smooth_failure_and_recovery",
            f"{PLAIN}::test_a_reload_goes_on_in_the_middle_of_a_round",
        ),
    ),
    30: Defect(
        "1000 / weight in whole numbers: half of the weights are alike, large ones win, zero is served",
        (
            f"{PLAIN}::test_least_connections_compares_what_is_in_flight_by_weight",
            f"{PLAIN}::test_weight_zero_is_never_picked_and_everybody_else_is",
            f"{PLAIN}::test_an_idle_pool_is_no_queue_for_the_first_of_it",
            f"{CANDIDATES}::test_weight_zero_is_never_a_candidate",
        ),
    ),
    31: Defect(
        "who has few samples is the slowest of all, and never gets any more",
        (
            f"{QUANTILE}::test_who_is_unknown_is_taken_for_the_mean_and_tried_a_little",
            f"{QUANTILE}::test_an_idle_standby_is_tried_again_after_a_day",
            f"{ATTEMPTS}::test_an_endpoint_nobody_has_measured_costs_nothing",
        ),
    ),
    32: Defect(
        "a latency target that nobody meets leaves nobody",
        (f"{QUANTILE}::test_the_target_is_a_wish", f"{LATENCY}::test_a_target_is_for_the_request_as_it_is"),
    ),
    33: Defect(
        "a health of nothing weighs less than one of a little, and health counts twice",
        (
            "tests/unit/health/test_weighing.py::test_more_failures_never_weigh_more",
            f"{CANDIDATES}::test_a_factor_multiplies_the_weight",
        ),
    ),
    34: Defect(
        "total durations are compared, of successes only: verbosity looks slow, timeouts are invisible",
        (
            f"{LATENCY}::test_the_time_is_taken_by_the_size_of_the_prompt",
            f"{LATENCY}::test_a_failure_is_never_fast",
            f"{ATTEMPTS}::test_a_failure_costs_the_penalty_however_fast_it_was",
            f"{ATTEMPTS}::test_a_neutral_end_is_noted_only_where_it_took_longer",
        ),
    ),
    35: Defect(
        "the cheapest for a prompt of fixed size takes all, and an unknown price is the lowest",
        (
            f"{CHEAPEST}::test_the_shape_of_the_request_decides",
            f"{CHEAPEST}::test_an_unknown_price_is_not_a_low_one",
            f"{CHEAPEST}::test_cheap_and_failing_is_dear",
            f"{SHARES}::test_cost_optimized_takes_the_cheap_until_it_fails",
            f"{COST}::test_the_size_of_the_request_counts",
        ),
    ),
    36: Defect(
        "a draw from a beta distribution that is its mean: the first winner stays for ever",
        (f"{BANDIT}::test_beta_9_3", f"{BANDIT}::test_everybody_has_a_floor", f"{ADAPTIVE}::test_everybody_is_tried"),
    ),
    37: Defect(
        "a reward that is computed and not used, and is zero for any ordinary answer",
        (
            f"{ADAPTIVE}::test_cost_and_latency_are_weighed",
            f"{ADAPTIVE}::test_to_the_fast_one",
            f"{SHARES}::test_adaptive_learns_who_is_slow",
            f"{BANDIT}::test_a_reward_is_split",
        ),
    ),
    38: Defect(
        "what was learnt long ago outweighs what happens now",
        (
            f"{BANDIT}::test_it_fades_with_time",
            f"{BANDIT}::test_no_more_is_known_than_the_cap",
            f"{ADAPTIVE}::test_after_a_step_change_it_turns_within_the_cap",
        ),
    ),
    39: Defect(
        "successes and errors enter a score as if they were two things",
        (
            f"{EXPLAIN}::test_the_score_grows_with_every_good_answer_and_falls_with_every_bad_one",
            "tests/unit/health/test_weighing.py::test_the_factor",
        ),
    ),
    40: Defect(
        "an average that forgets by the number of events, not by time",
        (
            f"{ATTEMPTS}::test_a_quicker_answer_moves_cost_by_the_time_gone",
            f"{ATTEMPTS}::test_cost_decays_while_there_is_no_traffic",
        ),
    ),
    41: Defect(
        "a median that is a mean, begins at nothing, and is stored in two steps",
        (
            f"{QUANTILE}::test_every_quantile_is_within_two_percent",
            f"{QUANTILE}::test_few_observations_are_blended_with_the_mean",
            f"{COUNTERS}::test_words_and_cells_are_exact_between_processes",
        ),
    ),
    42: Defect(
        "half a second is the slowest there may be: ordinary models are thrown out at their first error",
        (
            f"{PLAN}::test_a_slow_provider_without_errors_stays_a_candidate",
            f"{LATENCY}::test_a_provider_of_ten_seconds_stays_in_when_it_is_all_there_is",
        ),
    ),
    43: Defect(
        "who is idle grows ill, and cannot recover: the very endpoint that was kept in reserve",
        (
            f"{PLAN}::test_an_idle_standby_is_a_candidate_after_a_day",
            f"{CANDIDATES}::test_a_standby_is_a_candidate_after_a_day_without_traffic",
        ),
    ),
    44: Defect(
        "health checks that send nothing, to the providers of the first configuration",
        (
            "tests/e2e/test_probe.py::test_a_provider_that_fails_its_probe_is_left_alone",
            "tests/e2e/test_probe.py::test_nothing_is_probed_unless_it_is_asked_for",
        ),
    ),
    45: Defect(
        "a hard step in a score ejects at one error, and may eject everybody",
        (
            f"{BREAKER}::test_a_rate_of_failures_opens_it_from_the_minimum_volume_on",
            f"{CANDIDATES}::test_below_the_threshold_breakers_are_ignored",
            f"{EXPLAIN}::test_a_panic_is_told",
        ),
    ),
    46: Defect(
        "health by provider: one model or key that fails shuts them all",
        (
            f"{BREAKER}::test_one_endpoints_breaker_is_no_other_ones",
            f"{FAILOVER_MORE}::test_a_key_that_is_refused_does_not_take_its_sibling_along",
            f"{PLAN}::test_breakers_hold_along_a_chain",
        ),
    ),
    47: Defect(
        "a rule's answer is remembered by less than the rule has looked at",
        (
            "tests/unit/routing/test_rules_hypothesis.py::test_the_table_says_what_the_rules_say",
            f"{RULES}::test_time_moves_on_and_back_within_one_table",
        ),
        (Line("docs/rules.md", "No answer is remembered for a request", "there is nothing to confuse"),),
    ),
    48: Defect(
        "a cache that clients fill with names of their own, without end",
        (f"{RULES}::test_nothing_grows_with_what_clients_send", f"{RULES}::test_counts_go_on_after_a_reload"),
    ),
    49: Defect(
        "a rule that was switched off goes on from a cache",
        (f"{RULES}::test_disabled_rules_are_not_there", f"{RELOAD}::test_aliases_rules_and_keys"),
    ),
    50: Defect(
        "setting a priority does nothing but end the reading and reset the strategy",
        (
            f"{RULES}::test_rules_that_neither_route_nor_reject_are_noted_and_reading_goes_on",
            f"{RULES}::test_later_rules_see_the_new_priority",
        ),
    ),
    51: Defect(
        "a rule that says where to go takes the strategy away",
        (
            f"{RULES}::test_a_route_leaves_the_strategy_alone",
            f"{PLAN}::test_the_strategy_is_the_rules_then_the_tenants_then_the_routes_then_everybodys",
        ),
    ),
    52: Defect(
        "of a chain of actions the last one wins, also where it says nothing",
        (f"{RULES}::test_a_chain_is_all_of_its_actions", f"{PLAN}::test_a_chain_of_actions_keeps_what_each_has_said"),
    ),
    53: Defect(
        "a rejection is an empty list: its reason is lost, and the client tries again",
        (f"{RULES}::test_reject", f"{EXPLAIN}::test_a_rejection_by_rule_is_an_answer_too"),
    ),
    54: Defect(
        "the pool of the default route is ignored",
        (f"{RULES}::test_a_rule_without_condition_always_applies", f"{RULES}::test_provider_and_pool"),
        (Line("docs/rules.md", "`when: {}`\nalways holds", "the default is a rule like any other"),),
    ),
    55: Defect(
        "hours in UTC only, without minutes, days, zones or midnight, by the real clock",
        (
            f"{RULES}::test_hours",
            f"{RULES}::test_days",
            f"{RULES}::test_the_hour_that_is_skipped_in_spring",
            f"{RULES}::test_the_hour_that_comes_twice_in_autumn",
        ),
    ),
    56: Defect(
        "rules of equal priority are read in the order in which they came",
        (f"{RULES}::test_higher_priority_first_then_by_id",),
    ),
    57: Defect(
        "the primary is tried once, and none of its siblings",
        (f"{FAILOVER}::test_the_second_endpoint_answers", f"{PLAN}::test_a_chain_goes_on_where_the_route_ends"),
    ),
    58: Defect(
        "errors are words: a request that nobody can serve walks the whole chain",
        (
            f"{CLASSIFY}::test_statuses",
            f"{CLASSIFY}::test_what_another_model_may_not_refuse",
            f"{RETRIES}::test_what_is_the_requests_fault_is_sent_nowhere_else_and_blames_nobody",
            f"{RETRIES}::test_a_request_that_kills_replicas_kills_two_at_most",
        ),
    ),
    59: Defect(
        "it sleeps before it tries somebody else, ever longer and without end",
        (
            f"{RETRIES}::test_another_endpoint_is_tried_at_once",
            f"{RETRIES}::test_the_same_endpoint_is_tried_again_only_after_a_while_and_when_all_others_have_been",
            f"{BACKOFF}::test_a_huge_attempt_waits_no_longer_than_the_cap",
            f"{BACKOFF}::test_full_jitter_is_spread_evenly",
            f"{RETRIES}::test_no_attempt_begins_after_the_deadline",
        ),
    ),
    60: Defect(
        "two policies of retries that disagree, and statuses that neither knows",
        (f"{CLASSIFY}::test_statuses", f"{RETRIES}::test_a_lone_endpoint_is_waited_for_before_every_attempt"),
        (Line("fastroute/failover/classify.py", "The only judge of failure", "there is one policy"),),
    ),
    61: Defect(
        "fallbacks without a budget, a breaker or a memory; attempts that fail leave no trace",
        (
            f"{BUDGET}::test_a_hundred_requests_are_twenty_retries_and_the_reserve",
            f"{RETRIES}::test_an_outage_is_multiplied_by_no_more_than_the_budget",
            f"{RETRIES}::test_every_attempt_is_recorded_at_its_endpoint_and_the_request_once",
            f"{PLAN}::test_breakers_hold_along_a_chain",
            f"{SIMULATION}::test_an_outage_is_not_multiplied_by_retries",
        ),
    ),
    62: Defect(
        "no notion of a stream: a failure after the first byte, a client that leaves, an answer without usage",
        (
            f"{RETRIES}::test_nothing_is_sent_again_after_the_first_byte",
            f"{FAILOVER_MORE}::test_a_stream_that_breaks_ends_well_formed_and_is_not_tried_again",
            "tests/e2e/test_ledger.py::test_a_client_that_leaves_is_billed_by_estimate",
            "tests/e2e/test_ledger.py::test_an_answer_without_usage_is_estimated",
        ),
    ),
    63: Defect(
        "trace ids that are no trace ids, and an incoming trace that is ignored",
        (
            f"{WISHES}::test_a_trace_is_taken_up",
            f"{WISHES}::test_an_invalid_trace_is_ignored_as_the_standard_has_it",
            f"{WISHES}::test_the_trace_goes_on_with_the_request_as_the_parent",
        ),
    ),
    64: Defect(
        "all threads add to the same few numbers, some of which never start anew",
        (
            f"{COUNTERS}::test_totals_sum_over_workers",
            f"{ATTEMPTS}::test_a_bucket_starts_anew_when_its_turn_comes_again",
        ),
    ),
    65: Defect(
        "numbers of different writers share a pair of cache lines",
        (f"{COUNTERS}::test_cells_do_not_alias",),
        (
            Line(
                "fastroute/_core/_counters_file.py",
                "row = worker * endpoints + endpoint",
                "the rows of one worker lie together, so that a row's neighbours have the same writer",
            ),
        ),
    ),
    66: Defect(
        "local counts are added to the global ones again and again",
        (f"{COUNTERS}::test_totals_sum_over_workers", f"{COUNTERS}::test_clear_worker_keeps_what_was_counted"),
    ),
    67: Defect(
        "a snapshot that cannot be swapped atomically",
        (f"{RELOAD}::test_no_request_fails_while_configurations_change",),
        (
            Line(
                "fastroute/gateway.py",
                "`snapshot` may be replaced at any time; a request keeps the one it began with",
                "one assignment of one reference",
            ),
        ),
    ),
    68: Defect(
        "a filter of model names that goes stale, and costs more than what it saves",
        (
            "tests/unit/core/test_modeltable.py::test_every_name_is_found_where_it_lies",
            "tests/unit/core/test_modeltable.py::test_false_positives_are_rare",
            f"{RELOAD}::test_aliases_rules_and_keys",
        ),
    ),
    69: Defect(
        "vector instructions that the machine may not have, and that leave out the last few",
        (
            "tests/unit/core/test_candidates_hypothesis.py::test_same_candidates_same_choices",
            f"{SELECTION}::test_everybody_is_looked_at",
        ),
    ),
    70: Defect(
        "everybody sees the same minimum at the same time, and goes there",
        (
            f"{SELECTION}::test_p2c_balances_far_better_than_chance",
            f"{PLAIN}::test_an_idle_pool_is_no_queue_for_the_first_of_it",
            f"{WINDOW}::test_no_two_workers_make_the_same_claim",
        ),
    ),
    71: Defect(
        "nobody can tell which rule applied, or why somebody was passed over",
        (
            f"{EXPLAIN}::test_the_gate_of_everybody_who_is_out",
            f"{RULES}::test_what_is_shown_is_bounded",
            "tests/e2e/test_access_log.py::test_one_line_for_each_request",
        ),
    ),
    72: Defect(
        "a result without its first token, its cached tokens, its attempt or its end",
        (
            "tests/e2e/test_ledger.py::test_every_record_says_how_it_ended",
            "tests/unit/billing/test_journal.py::test_ids_carry_boot_and_sequence",
        ),
        (Line("fastroute/interfaces.py", "ttft_ms: float = -1.0", "measured or said not to be"),),
    ),
    73: Defect(
        "errors printed to the terminal, in whatever words, secrets included",
        (
            "tests/e2e/test_headers.py::test_no_secret_leaves_by_log_error_or_report",
            f"{PLAN}::test_no_refusal_holds_a_secret_or_a_name_of_ours",
            f"{EXPLAIN}::test_no_document_holds_a_secret",
        ),
    ),
}

NODES = sorted({node for defect in DEFECTS.values() for node in defect.tests})
LINES = sorted({line for defect in DEFECTS.values() for line in defect.lines})


@cache
def functions(file: str) -> frozenset[str]:
    """Return the tests of a file, without running it."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_"))


def test_all_of_them_are_there() -> None:
    assert list(DEFECTS) == list(range(1, 74))


@pytest.mark.parametrize("number", DEFECTS)
def test_each_is_said_in_words_and_answered_for(number: int) -> None:
    defect = DEFECTS[number]
    assert 20 < len(defect.what) < 120
    assert defect.tests or defect.lines
    assert len(set(defect.tests)) == len(defect.tests)


def test_no_two_are_the_same() -> None:
    assert len({defect.what for defect in DEFECTS.values()}) == len(DEFECTS)


@pytest.mark.parametrize("node", NODES)
def test_the_test_exists(node: str) -> None:
    file, _, name = node.partition("::")
    assert name in functions(file)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.file}:{line.fragment[:20]}")
def test_the_line_exists(line: Line) -> None:
    assert line.fragment in (ROOT / line.file).read_text(encoding="utf-8")
    assert line.why
