# What a builder builds: `busybox` is a store path that the builder has.
{ busybox, name, script, features ? [ ] }:
derivation {
  inherit name;
  system = "x86_64-linux";
  busybox = builtins.storePath busybox;
  builder = "${builtins.storePath busybox}/bin/sh";
  requiredSystemFeatures = features;
  args = [ "-c" script ];
}
