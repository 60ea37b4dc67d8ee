kit: with kit; {
  short = { name = "x"; };
  long = { name = builtins.concatStringsSep "" (builtins.genList (n: "a") 190); };
  odd = { name = "a+b_c?d=e.f-1"; };
  version = { name = "thing-1.2.3"; };
  long_output_name = { outputs = [ "out" "averyveryverylongoutputname_1-2" ]; script = "echo x > $out; echo y > ${placeholder "averyveryverylongoutputname_1-2"}"; };
  dotted = { name = "x.tar.gz"; };
  like_a_derivation = { name = "x.drvx"; };
}
