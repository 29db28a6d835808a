%% N processes, each idle again after it answered one request: what they hold.
-module(b_density).
-export([run/1, check/2]).

run([N]) ->
    M0 = erlang:memory(processes_used),
    Pids = [spawn_link(fun() -> loop(I) end) || I <- lists:seq(0, N - 1)],
    Got = [begin P ! {who, self()}, receive {P, I} -> I end end || P <- Pids],
    Bytes = (erlang:memory(processes_used) - M0) div N,
    [begin unlink(P), exit(P, kill) end || P <- Pids],
    {Got, N, io_lib:format("bytes_per_actor=~b", [Bytes])}.

loop(I) -> receive {who, From} -> From ! {self(), I}, loop(I) end.

check([N], Got) ->
    case lists:seq(0, N - 1) of Got -> ok; _ -> {wrong, length(Got)} end.
