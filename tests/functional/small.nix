# The smallest derivation there is: a static busybox runs a line of shell.
{ tag, bb, body ? "echo built-$tag > $out", system ? "x86_64-linux", more ? "" }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  extra = if more == "" then { } else builtins.fromJSON more;
in derivation ({
  name = "small-${tag}";
  inherit system tag busybox;
  builder = "${busybox}/bin/sh";
  args = [ "-c" "echo log-line-for-$tag >&2; ${body}" ];
} // extra)
