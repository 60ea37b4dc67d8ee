# Facts 5.6: `.attrs.json` and `.attrs.sh` to the letter.
kit: with kit;
let
  both = attributes: structured ({ script = "cat /build/.attrs.json /build/.attrs.sh > ${out}"; } // attributes);
in {
  plain = both { };
  strings = both { a = "it's"; b = ""; c = "two\nlines\t\"quoted\" \\ $x `y`"; d = "äöü→😀"; };
  numbers = both { a = 0; b = -7; c = 3000000000; d = 4294967296; e = 9007199254740993; f = -3000000000; g = 9223372036854775807; };
  fractions = { __json = ''{"a":1.5,"b":2.0,"c":0.1,"d":1.10,"e":123456789.125,"f":16777217.5,"g":1e20,"h":1.5e300,"i":-0.0,"j":1e-7}'';
    args = [ "-c" "cat /build/.attrs.json /build/.attrs.sh > ${out}" ]; };
  booleans = both { yes = true; no = false; none = null; };
  lists = both { a = [ ]; b = [ "x" "y z" "it's" ]; c = [ 1 2 3 ]; d = [ true false null ]; e = [ 1.5 ]; f = [ [ 1 ] ]; };
  objects = both { a = { }; b = { x = "1"; "it's" = 2; "two words" = true; }; c = { x = { y = 1; }; }; d = { x = [ 1 ]; }; };
  odd_names = both { "with-dash" = 1; "1digit" = 2; _under = 3; "ü" = 4; "a.b" = 5; CAPITAL = 6; };
  outputs = both { outputs = [ "out" "dev" "a" ]; script = "cat /build/.attrs.json /build/.attrs.sh > ${out}; echo d > ${placeholder "dev"}; echo a > ${placeholder "a"}"; };
  placeholders = both { prefix = "${out}/bin"; list = [ out "x${out}y" ]; deep = { a = { b = out; }; }; };
  environment = structured { script = "env | grep -v ^NIX_BUILD_CORES | sed 's,=.*/.attrs,=/build/.attrs,' | sort > ${out}"; some = "value"; PATH = "/x"; };
  files = structured { script = "ls -A /build | sort > ${out}; stat -c '%a %u %g' /build/.attrs.json /build/.attrs.sh >> ${out}"; };
  pass_as_file_ignored = both { passAsFile = [ "text" ]; text = "t"; };
  context = both { input = leaf; inputs = [ leaf branch ]; };
  large = structured { script = "sha256sum /build/.attrs.json /build/.attrs.sh > ${out}"; list = builtins.genList (n: "element ${toString n}") 5000; };
  nested_lists = both { deep = [ [ [ [ 1 "a" ] ] ] { a = [ { } ]; } ]; };
  system_features = both { requiredSystemFeatures = [ ]; };
  no_chroot_off = both { __noChroot = false; };
  json_by_hand = { __json = ''{"name": "x", "b" : 1.0, "a": [1e2, "\u00e9\/"], "z": 18446744073709551615, "y": 18446744073709551616}'';
    args = [ "-c" "cat /build/.attrs.json /build/.attrs.sh > ${out}" ]; };
  json_broken = { __json = ''{"a": ''; };
}
