# Real programs from real sources, without any package collection. `inputs` and `sources` are the folders
# that `tests/support/prepare CACHE inputs` and `… sources` make.
{ inputs, sources ? null, system ? "x86_64-linux" }:
let
  folder = /. + inputs;
  toolchain = import ./toolchain.nix { inputs = folder; inherit system; };
  program = import ./program.nix { sources = /. + sources; inherit toolchain system; };
in rec {
  inherit toolchain;
  hello = import ./hello.nix { inputs = folder; inherit toolchain system; };
  lua = import ./lua.nix { inputs = folder; inherit toolchain system; };
  zlib = program "zlib" { };
  bzip2 = program "bzip2" { };
  gzip = program "gzip" { };
  sed = program "sed" { };
  tcc = program "tcc" { };
  lz4 = program "lz4" { };
  git = program "git" { inherit zlib; };
}
