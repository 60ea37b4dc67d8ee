# What a builder builds: `busybox` and `nix` are store paths that it has.
{ busybox, nix ? null, name, script, features ? [ ] }:
let tools = if nix == null then { } else { nix = builtins.storePath nix; };
in derivation (tools // {
  inherit name;
  system = "x86_64-linux";
  busybox = builtins.storePath busybox;
  builder = "${builtins.storePath busybox}/bin/sh";
  requiredSystemFeatures = features;
  args = [ "-c" script ];
})
