%% The generator of rule A6: Lehmer, 31 bits; four outputs are thrown away after seeding.
-module(bench).
-export([rng/1, next/1, below/2]).

rng(Seed) ->
    lists:foldl(fun(_, X) -> next(X) end, (Seed rem 2147483646) + 1, [1, 2, 3, 4]).

next(X) -> (X * 48271) rem 2147483647.

below(X, N) ->
    Y = next(X),
    {Y rem N, Y}.
