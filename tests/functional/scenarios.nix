# Derivations whose builders machines on paper (tests/support/paper_emulator.cpp) and real ones run alike.
{ tag, bb, width ? 10, bad ? -1, ms ? "20", contents ? "made-${tag}" }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  node = name: more: derivation ({
    name = "scenario-${tag}-${name}";
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    paperMs = ms;
    paperContents = contents;
    args = [ "-c" ''echo paper line 0; for o in $outputs; do eval "echo -n \"\$paperContents\" > \$$o"; done; exit $paperExit'' ];
    outputs = [ "out" ];
    paperExit = "0";
  } // more);
  middle = n: node "middle-${toString n}" (
    { inputs = [ one ]; } // (if n == bad then { paperExit = "3"; } else { })
  );
  one = node "one" { };
in {
  inherit one;
  two = node "two" { };
  # Has an input that nobody else has.
  sourced = node "sourced" { source = builtins.toFile "source" tag; };
  slow = node "slow" { paperMs = "60000"; };
  failing = node "failing" { paperExit = "3"; };
  several = node "several" { outputs = [ "out" "lib" "dev" ]; };
  big = node "big" { requiredSystemFeatures = [ "big-parallel" ]; };
  # Refers to nothing that nobody has: its hash is told in advance.
  fixed = node "fixed" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" contents;
  };
  wrong = node "wrong" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "something else";
  };
  middles = builtins.genList middle width;
  diamond = node "top" { inputs = builtins.genList middle width; };
  # Evaluating it builds it.
  value = import (node "value" { paperContents = "{ answer = 42; }"; });
}
