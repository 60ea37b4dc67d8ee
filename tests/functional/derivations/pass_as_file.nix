kit: with kit; {
  one = { passAsFile = [ "text" ]; text = "a text\n"; script = "cat $textPath > $out; env | grep -c ^text= >> $out || true"; };
  name_of_file = { passAsFile = [ "text" ]; text = "x"; script = "echo $textPath > $out; stat -c '%a %n' $textPath >> $out"; };
  several = { passAsFile = "b  a\n c"; a = "1"; b = "2"; c = ""; script = "cat $aPath $bPath $cPath > $out; ls -A | sort >> $out"; };
  missing = { passAsFile = [ "none" ]; script = "env | grep -v ^NIX_BUILD_CORES | sort > $out; ls -A >> $out"; };
  large = {
    passAsFile = [ "big" ]; script = "sha256sum < $bigPath > $out; wc -c < $bigPath >> $out";
    big = builtins.concatStringsSep "" (builtins.genList (n: "line ${toString n} of many\n") 20000);
  };
  placeholder = { passAsFile = [ "text" ]; text = "prefix=${out}/lib ${out}"; script = "cat $textPath > $out"; };
  odd_bytes = { passAsFile = [ "text" ]; text = "tab\t \"quotes\" 'single' \\ → \r\n"; script = "od -c $textPath > $out"; };
  context = { passAsFile = [ "text" ]; text = "see ${leaf}"; script = "cat $textPath > $out"; };
}
