# Real programs from real sources, without any package collection. `inputs` is the folder that
# `tests/support/prepare CACHE inputs` makes.
{ inputs, system ? "x86_64-linux" }:
let
  folder = /. + inputs;
  toolchain = import ./toolchain.nix { inputs = folder; inherit system; };
in {
  inherit toolchain;
  hello = import ./hello.nix { inputs = folder; inherit toolchain system; };
  lua = import ./lua.nix { inputs = folder; inherit toolchain system; };
}
