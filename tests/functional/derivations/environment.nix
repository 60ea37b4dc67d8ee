# Facts 5.1: which variables a builder has, in which order they win.
kit: with kit; {
  defaults.script = "env | grep -v ^NIX_BUILD_CORES | sort > $out";
  own = { script = "env | grep -v ^NIX_BUILD_CORES | sort > $out"; HOME = "/mine"; PATH = "/some"; some = "value"; empty = ""; };
  forced = {
    script = "env | grep -v ^NIX_BUILD_CORES | sort > $out";
    TERM = "dumb"; PWD = "/elsewhere"; TMPDIR = "/elsewhere"; NIX_LOG_FD = "9"; NIX_BUILD_TOP = "/x";
  };
  store = { script = "echo $NIX_STORE > $out"; };
  odd_values = {
    script = "env | grep -v ^NIX_BUILD_CORES > $out; printf %s \"$quotes$newline$unicode$tab\" >> $out";
    quotes = ''a"b'c\d$e`f''; newline = "a\nb\n"; unicode = "äöü→"; tab = "a\tb\rc";
  };
  list_and_numbers = { script = "env | grep -v ^NIX_BUILD_CORES | sort > $out"; list = [ "a" "b c" 3 ]; yes = true; no = false; number = -5; nothing = null; };
  placeholder_in_value = { script = "echo $prefix > $out"; prefix = "--prefix=${out}/bin"; };
  placeholder_in_argument = { args = [ "-c" "echo ${out} > $out; echo $0 $1 >> $out" "zero" "${out}/one" ]; };
  placeholder_of_another_output = {
    outputs = [ "out" "dev" ]; script = "echo $where > $out; echo x > $dev"; where = placeholder "dev";
  };
  placeholder_unknown = { script = "echo $where > $out"; where = placeholder "none"; };
  arguments = { args = [ "-c" "for i in \"$@\"; do echo \"<$i>\"; done > $out" "sh" "" "two words" "ü" "*" ]; };
  argv_zero = { args = [ "-c" "tr '\\0' '\\n' < /proc/self/cmdline | head -1 > $out; echo $0 >> $out" ]; };
  cores = { script = "echo $NIX_BUILD_CORES | grep -E '^[0-9]+$' | sed s/.*/number/ > $out"; };
  many = { script = "env | grep -v ^NIX_BUILD_CORES | sort | sha256sum > $out"; } // builtins.listToAttrs
    (map (n: { name = "v${toString n}"; value = toString (n * n); }) (builtins.genList (n: n) 400));
  large = { script = "printf %s \"$big\" | sha256sum > $out"; big = builtins.concatStringsSep "" (builtins.genList (n: "0123456789abcdef") 6000); };
}
