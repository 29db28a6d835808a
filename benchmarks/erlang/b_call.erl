%% N requests to one idle gen_server, one at a time: gen_server:call, with its default deadline of 5 s.
%% Each reply must carry the request's number.
-module(b_call).
-behaviour(gen_server).
-export([run/1, check/2, init/1, handle_call/3, handle_cast/2]).

run([N]) ->
    {ok, Pong} = gen_server:start_link(?MODULE, 0, []),
    Sum = ping(Pong, 0, N, 0),
    Handled = gen_server:call(Pong, handled),
    ok = gen_server:stop(Pong),
    {{Sum, Handled}, 2 * N, "messages"}.

ping(_, N, N, Sum) -> Sum;
ping(Pong, I, N, Sum) ->
    I = gen_server:call(Pong, {number, I}),
    ping(Pong, I + 1, N, Sum + I).

init(C) -> {ok, C}.
handle_call({number, I}, _, C) -> {reply, I, C + 1};
handle_call(handled, _, C) -> {reply, C, C}.
handle_cast(_, C) -> {noreply, C}.

check([N], {Sum, Handled}) when Sum =:= N * (N - 1) div 2, Handled =:= N -> ok;
check(_, R) -> {wrong, R}.
