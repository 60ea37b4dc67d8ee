# Outputs whose hash is known before.
kit: with kit;
let
  flat = algo: hash: attributes: { outputHashAlgo = algo; outputHashMode = "flat"; outputHash = hash; script = "printf hello > $out"; } // attributes;
  tree = algo: hash: attributes: flat algo hash ({ outputHashMode = "recursive"; script = "mkdir $out; printf hello > $out/f"; } // attributes);
  of = algo: builtins.hashString algo "hello";
in {
  flat_sha256 = flat "sha256" (of "sha256") { };
  flat_sha1 = flat "sha1" (of "sha1") { };
  flat_sha512 = flat "sha512" (of "sha512") { };
  flat_md5 = flat "md5" (of "md5") { };
  sri = { outputHash = "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="; outputHashAlgo = null; script = "printf hello > $out"; };
  wrong_hash = flat "sha256" (builtins.hashString "sha256" "other") { };
  executable = flat "sha256" (of "sha256") { script = "printf hello > $out; chmod +x $out"; };
  not_a_file = flat "sha256" (of "sha256") { script = "mkdir $out"; };
  link = flat "sha256" (of "sha256") { script = "ln -s target $out"; };
  recursive_file = tree "sha256" "1hnj13qalhrjamjs1zq3xsfihzc7pb8g4l64qacwlrx4irgy5nkh" { script = "printf hello > $out"; };
  recursive_wrong = tree "sha1" (of "sha1") { };
  refers = flat "sha256" (builtins.hashString "sha256" "${leaf}\n") { inherit leaf; script = "echo $leaf > $out"; };
  marked = flat "sha256" (builtins.hashString "sha256" "1\n") { script = "echo $NIX_OUTPUT_CHECKED > $out"; };
  fails = flat "sha256" (of "sha256") { script = "exit 3"; };
  nothing = flat "sha256" (of "sha256") { script = "true"; };
  impure_variables = flat "sha256" (builtins.hashString "sha256" "http_proxy=\n") { impureEnvVars = [ "http_proxy" "not_set" ]; script = "env | grep ^http_proxy > $out"; };
  same_twice_as_input = { a = make "fixed" (flat "sha256" (of "sha256") { }); script = "cat $a > $out; echo $a >> $out"; };
}
