%% An unbalanced tree whose shape follows from hashes; one process per node reports its subtree and ends.
-module(b_uts).
-export([run/1, check/2]).

-define(M31, 2147483647).

run([B0]) ->
    Self = self(),
    spawn_link(fun() -> node_(Self, 7, 0, B0) end),
    T = receive {tree, Found} -> Found end,
    {T, element(1, T), "actors"}.

node_(Up, H, D, 0) -> Up ! {tree, {1, 1, D, H}};
node_(Up, H, D, K) ->
    Me = self(),
    [spawn_link(fun() -> C = kid(H, J), node_(Me, C, D + 1, branch(C)) end) || J <- lists:seq(0, K - 1)],
    Up ! {tree, gather(K, {1, 0, D, H})}.

gather(0, T) -> T;
gather(K, {N, L, D, S}) -> receive {tree, {A, B, C, E}} -> gather(K - 1, {N + A, L + B, max(D, C), S + E}) end.

branch(H) when H rem 100 < 12 -> 8;
branch(_) -> 0.

kid(H, J) ->
    X0 = (48271 * H + 16807 * (J + 1)) rem ?M31,
    X1 = X0 bxor (X0 bsr 15),
    X2 = 69621 * X1 rem ?M31,
    X2 bxor (X2 bsr 13).

check([B0], T) ->
    case count([{7, 0, B0}], {0, 0, 0, 0}) of T -> ok; Want -> {wrong, T, Want} end.

count([], T) -> T;
count([{H, D, K} | Todo], {N, L, Depth, S}) ->
    Kids = [begin C = kid(H, J), {C, D + 1, branch(C)} end || J <- lists:seq(0, K - 1)],
    Leaf = case K of 0 -> 1; _ -> 0 end,
    count(Kids ++ Todo, {N + 1, L + Leaf, max(D, Depth), S + H}).
