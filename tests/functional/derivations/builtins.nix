# What Nix builds by itself, without a program. Nothing here needs a network: `file://` is an input.
kit: with kit;
let
  builtin = name: attributes: { system = "builtin"; builder = "builtin:${name}"; args = [ ]; } // attributes;
  package = name: script: make "package-${name}" { script = "mkdir -p $out/bin $out/share/common; ${script}"; };
  one = package "one" "echo 1 > $out/bin/one; echo 1 > $out/share/common/one; mkdir $out/alone; echo 1 > $out/alone/f";
  two = package "two" "echo 2 > $out/bin/two; echo 2 > $out/share/common/two; ln -s one $out/bin/alias; echo . > $out/.hidden";
  # The same names as `one`.
  rival = package "rival" "echo rival > $out/bin/one; echo rival > $out/share/rival";
  with_one = package "with-one" "mkdir $out/nix-support; echo ${one} ${rival} > $out/nix-support/propagated-user-env-packages; echo x > $out/bin/with";
  left_out = package "left-out" "mkdir $out/nix-support $out/info; echo . > $out/nix-support/f; echo . > $out/info/dir; echo . > $out/info/other; echo . > $out/log; echo . > $out/manifest.nix; echo . > $out/manifest.json; echo . > $out/propagated-build-inputs; echo . > $out/bin/perllocal.pod";
  dangling = package "dangling" "ln -s /nowhere $out/bin/nothing; echo 1 > $out/bin/something";
  file_for_folder = make "package-file" { script = "mkdir $out; echo . > $out/share"; };
  at = priority: path: [ "true" priority 1 path ];
  profile = derivations: builtin "buildenv" { derivations = builtins.concatLists derivations; manifest = text; };
  channel = script: builtin "unpack-channel" { channelName = "named"; src = make "channel.tar" { inherit script; }; };
  fetched = hash: attributes: builtin "fetchurl" ({ url = "file://${text}"; outputHashAlgo = null; outputHashMode = "flat"; outputHash = hash; } // attributes);
  of_text = "sha256-ueaOG+o+WxnKay+YtzpUtz2q+qJQSEkC4JmC4HoS5zM=";
  archive = make "archive" { script = "printf '%b' '\015\000\000\000\000\000\000\000nix-archive-1\000\000\000\001\000\000\000\000\000\000\000(\000\000\000\000\000\000\000\004\000\000\000\000\000\000\000type\000\000\000\000\011\000\000\000\000\000\000\000directory\000\000\000\000\000\000\000\005\000\000\000\000\000\000\000entry\000\000\000\001\000\000\000\000\000\000\000(\000\000\000\000\000\000\000\004\000\000\000\000\000\000\000name\000\000\000\000\001\000\000\000\000\000\000\000f\000\000\000\000\000\000\000\004\000\000\000\000\000\000\000node\000\000\000\000\001\000\000\000\000\000\000\000(\000\000\000\000\000\000\000\004\000\000\000\000\000\000\000type\000\000\000\000\007\000\000\000\000\000\000\000regular\000\010\000\000\000\000\000\000\000contents\011\000\000\000\000\000\000\000restored\012\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000)\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000)\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000)\000\000\000\000\000\000\000' > $out"; };
in {
  profile_of_none = profile [ ];
  profile_of_one = profile [ (at 5 one) ];
  profile_merged = profile [ (at 5 one) (at 5 two) ];
  profile_of_three = profile [ (at 5 one) (at 5 two) (at 4 left_out) ];
  profile_priority = profile [ (at 5 rival) (at 4 one) ];
  profile_priority_reversed = profile [ (at 4 rival) (at 5 one) ];
  profile_conflict = profile [ (at 5 one) (at 5 rival) ];
  profile_inactive = profile [ (at 5 one) [ "false" 5 1 rival ] ];
  profile_outputs = profile [ [ "true" 5 2 one two ] ];
  profile_twice = profile [ (at 5 one) (at 5 one) ];
  profile_propagated = profile [ (at 5 with_one) ];
  profile_dangling = profile [ (at 5 dangling) ];
  profile_of_a_file = profile [ (at 5 text) (at 5 one) ];
  profile_file_for_folder = profile [ (at 4 one) (at 5 file_for_folder) ];
  profile_folder_for_file = profile [ (at 4 file_for_folder) (at 5 one) ];
  profile_without_manifest = removeAttrs (profile [ (at 5 one) ]) [ "manifest" ];
  channel_gzip = channel "mkdir c; echo '{ }' > c/default.nix; echo . > c/run; chmod +x c/run; ln -s default.nix c/link; tar -cf - c | gzip > $out";
  channel_plain = channel "mkdir -p c/d; echo '{ }' > c/default.nix; ln c/default.nix c/d/same; tar -cf $out c";
  channel_bzip2 = channel "echo '{ }' > c; tar -cf - c | bzip2 > $out";
  channel_of_two = channel "mkdir c d; tar -cf - c d | gzip > $out";
  channel_no_archive = channel "echo text > $out";
  channel_cut_short = channel "mkdir c; seq 5000 > c/f; tar -cf - c | gzip > a; head -c 2000 a > $out";
  channel_bad_name = channel "mkdir c; tar -cf $out c" // { channelName = "a/b"; };
  fetched_flat = fetched of_text { };
  fetched_wrong = fetched (builtins.hashString "sha256" "other") { outputHashAlgo = "sha256"; };
  fetched_missing = fetched of_text { url = "file://${text}-missing"; };
  fetched_nothing = removeAttrs (fetched of_text { }) [ "url" ];
  fetched_executable = fetched "sha256-chXUQ3BQ0fquJUT85P05jlJFpioJGgY/b/h0OdvBELY=" { executable = true; outputHashMode = "recursive"; };
  fetched_archive = fetched "sha256-RpO4UWy6vfl68ZF4CLh7Mzn3eWATEKCWXrHBecNEL4E=" { url = "file://${archive}"; unpack = true; outputHashMode = "recursive"; };
  fetched_no_archive = fetched "sha256-RpO4UWy6vfl68ZF4CLh7Mzn3eWATEKCWXrHBecNEL4E=" { unpack = true; outputHashMode = "recursive"; };
  unknown = builtin "nothing" { };
}
