%% E workers call one gen_server that holds 4096 keys in a map; one request in ten writes.
-module(b_concdict).
-behaviour(gen_server).
-export([run/1, check/2, init/1, handle_call/3, handle_cast/2]).

run([E, M]) ->
    {ok, Store} = gen_server:start_link(?MODULE, [], []),
    Self = self(),
    Pids = [spawn_link(fun() -> Self ! {done, self(), work(Store, M, bench:rng(1000 + I), #{}, 0, 0)} end)
            || I <- lists:seq(0, E - 1)],
    Got = [receive {done, P, RW} -> RW end || P <- Pids],
    Data = gen_server:call(Store, data),
    ok = gen_server:stop(Store),
    {{Got, lists:sum(maps:values(Data))}, E * M, "requests"}.

work(_, 0, _, _, R, W) -> {R, W};
work(Store, M, X, Mine, R, W) ->
    {D, X1} = bench:below(X, 100),
    {K, X2} = bench:below(X1, 4096),
    case D < 10 of
        true ->
            K = gen_server:call(Store, {write, K, K}),
            work(Store, M - 1, X2, Mine#{K => true}, R, W + 1);
        false ->
            case gen_server:call(Store, {read, K}) of
                K -> ok;
                -1 -> false = is_map_key(K, Mine)
            end,
            work(Store, M - 1, X2, Mine, R + 1, W)
    end.

init([]) -> {ok, maps:from_list([{K, -1} || K <- lists:seq(0, 4095)])}.
handle_call({read, K}, _, D) -> {reply, map_get(K, D), D};
handle_call({write, K, V}, _, D) -> {reply, V, D#{K := V}};
handle_call(data, _, D) -> {reply, D, D}.
handle_cast(_, D) -> {noreply, D}.

check([E, M], {Got, Sum}) ->
    {R, W, Keys} = lists:foldl(fun(I, Acc) -> replay(M, bench:rng(1000 + I), Acc) end, {0, 0, #{}}, lists:seq(0, E - 1)),
    Want = lists:sum(maps:keys(Keys)) - (4096 - map_size(Keys)),
    case {lists:sum([A || {A, _} <- Got]), lists:sum([B || {_, B} <- Got]), Sum} of
        {R, W, Want} -> ok;
        Other -> {wrong, Other}
    end.

replay(0, _, Acc) -> Acc;
replay(M, X, {R, W, Keys}) ->
    {D, X1} = bench:below(X, 100),
    {K, X2} = bench:below(X1, 4096),
    case D < 10 of
        true -> replay(M - 1, X2, {R, W + 1, Keys#{K => true}});
        false -> replay(M - 1, X2, {R + 1, W, Keys})
    end.
