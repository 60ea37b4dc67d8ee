# GNU hello 2.10 from its original source: configure, make, make install.
{ inputs, toolchain, system ? "x86_64-linux" }:
derivation {
  name = "hello-2.10";
  inherit system;
  builder = "${toolchain}/bin/bash";
  args = [ ./hello.sh ];
  PATH = "${toolchain}/bin";
  src = builtins.path { path = inputs + "/hello.tar.gz"; name = "hello-2.10.tar.gz"; };
}
