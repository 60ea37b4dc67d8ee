let
  src = builtins.toFile "src.txt" "hello";
  mk = a: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/bin"; } // a);
  dep = mk { name = "dep"; args = [ "-c" "echo dep > $out" ]; };
  top = mk { name = "top"; args = [ "-c" "echo building on stderr >&2; mkdir $out; cat ${src} ${dep} > $out/a; ln -s ${dep} $out/l; echo $out > $out/self" ]; };
  fod = mk { name = "fod"; args = [ "-c" "echo -n hello > $out" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; };
  cadrv = mk { name = "cadrv"; args = [ "-c" "mkdir $out; echo $out > $out/self" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  cadep = mk { name = "cadep"; args = [ "-c" "cat ${cadrv} > $out" ]; };
  multi = mk { name = "multi"; outputs = [ "out" "dev" "lib" ]; text = "a\"b\\c\nd\te\rf\${x} é"; args = [ "-c" "cat ${fod} > $out; : ${dep}" ]; };
  uses = mk { name = "uses"; args = [ "-c" "echo ${multi.dev} ${multi.lib} ${top} ${fod}" ]; };
  structured = mk { name = "structured"; __structuredAttrs = true; a = [ 1 "x" { y = null; } ]; args = [ "-c" "true" ]; };
in [ dep top fod cadrv cadep multi uses structured ]
