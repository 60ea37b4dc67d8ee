# Lua 5.4 from its original source.
{ inputs, toolchain, system ? "x86_64-linux" }:
derivation {
  name = "lua-5.4";
  inherit system;
  builder = "${toolchain}/bin/bash";
  args = [ ./lua.sh ];
  PATH = "${toolchain}/bin";
  src = builtins.path { path = inputs + "/lua.tar.gz"; name = "lua-5.4.tar.gz"; };
}
