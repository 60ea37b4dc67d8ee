# A program from its original source, by the script of its name.
{ toolchain, sources, system ? "x86_64-linux" }:
name: more:
derivation ({
  inherit name system;
  builder = "${toolchain}/bin/bash";
  args = [ (./. + "/${name}.sh") ];
  PATH = "${toolchain}/bin";
  src = builtins.path { path = sources + "/${name}.tar"; name = "${name}.tar"; };
} // more)
