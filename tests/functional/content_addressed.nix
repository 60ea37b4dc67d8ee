# Derivations whose output paths are made of what comes out.
{ bb }:
let
  busybox = builtins.path { path = /. + bb; name = "bb"; };
  plain = name: attributes: derivation ({
    name = "ca-${name}";
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    PATH = "${busybox}/bin";
    args = [ "-e" "-c" attributes.script ];
  } // removeAttrs attributes [ "script" ]);
  made = name: attributes: plain name ({ __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; } // attributes);
  leaf = made "leaf" { script = "echo leaf > $out"; };
  branch = made "branch" { inherit leaf; script = "mkdir $out; echo $leaf > $out/leaf; echo $out > $out/me"; };
in rec {
  inherit leaf branch;
  itself = made "itself" { script = "mkdir -p $out/bin; echo $out > $out/bin/a; echo $out $out > $out/b; ln -s $out/b $out/c"; };
  # Contents that depend on the place where it is built, which cannot be found in them.
  hidden = made "hidden" { script = "echo $out | md5sum > $out"; };
  hidden_behind = made "hidden-behind" { inherit branch; script = "echo $out $branch | md5sum > $out"; };
  outputs = made "outputs" { outputs = [ "out" "dev" "lib" ]; script = "echo $lib $dev > $out; echo $dev > $dev; echo lib > $lib"; };
  tree = made "tree" { inherit branch leaf; script = "cat $branch/leaf $branch/me > $out; echo $leaf >> $out"; };
  flat = made "flat" { outputHashMode = "flat"; script = "echo flat > $out"; };
  sha1 = made "sha1" { outputHashAlgo = "sha1"; script = "mkdir $out; echo sha1 > $out/f"; };
  sha512 = made "sha512" { outputHashAlgo = "sha512"; script = "echo sha512 > $out"; };
  attributes = made "attributes" { __structuredAttrs = true; script = "read -r json < .attrs.json || true; echo \"$json\" > ${placeholder "out"}"; };
  by_path = made "by-path" { inherit branch; paths = [ "${leaf}" "${branch}/me" ]; script = "cat $paths > $out"; };
  # Its path is known when its inputs are.
  behind = plain "behind" { inherit branch tree; script = "cat $tree $branch/leaf > $out; echo $out >> $out"; };
  behind_outputs = plain "behind-outputs" { inherit (outputs) dev lib; script = "cat $dev $lib > $out"; };
  far_behind = plain "far-behind" { inherit behind; script = "cat $behind > $out; echo $behind >> $out"; };
  known_behind = plain "known-behind" { inherit branch; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "leaf\n"; script = "read path < $branch/leaf; cat $path > $out"; };
  circle = made "circle" { outputs = [ "out" "dev" ]; script = "echo $dev > $out; echo $out > $dev"; };
  fails = made "fails" { inherit leaf; script = "cat $leaf; exit 7"; };
}
