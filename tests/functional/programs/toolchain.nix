# A compiler, a shell and the usual tools, made of Debian packages: everything that is loaded or
# searched for lies inside its own output. It refers to itself, so it has to be a derivation.
{ inputs, system ? "x86_64-linux" }:
derivation {
  name = "toolchain";
  inherit system;
  builder = "${builtins.path { path = inputs + "/bb"; name = "busybox"; }}/bin/sh";
  args = [ ./toolchain.sh ];
  raw = builtins.path { path = inputs + "/raw"; name = "toolchain-raw"; };
}
