#include "unit/model/error_code.hpp"

#include <nixbuild/model/derivation.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

using namespace nixbuild;
using namespace nixbuild::model;
using nixbuild::test::error_code_of;

namespace {

const StoreDir kTextDir;
const std::string kPath = "/nix/store/7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-";

std::string code(const std::string& text, const DerivationLimits& limits = {}) {
  return error_code_of([&] { return parse_derivation(kTextDir, text, limits); });
}

std::string with(const std::string& outputs,
                 const std::string& inputs,
                 const std::string& sources,
                 const std::string& environment) {
  return "Derive([" + outputs + "],[" + inputs + "],[" + sources + "],\"p\",\"b\",[],[" +
         environment + "])";
}

DerivationOutput output(bool path, const std::string& method, const std::string& hash) {
  DerivationOutput out;
  if (path) {
    out.path = kTextDir.parse(kPath + "x");
  }
  out.method_algorithm = method;
  out.hash = hash;
  return out;
}

} // namespace

TEST_CASE("derivation: every part is read", "[model]") {
  const std::string text =
      "Derive([(\"dev\",\"" + kPath + "a-dev\",\"\",\"\"),(\"out\",\"" + kPath +
      "a\",\"\",\"\")],[(\"" + kPath + "i.drv\",[\"dev\",\"out\"])],[\"" + kPath +
      "s\"],\"x86_64-linux\",\"/bin/sh\",[\"-c\",\"a\\\"b\\\\c\\nd\\te\\rf\"],[(\"k\",\"v\")])";
  const auto derivation = parse_derivation(kTextDir, text);
  CHECK(derivation.outputs.at("dev").path == kTextDir.parse(kPath + "a-dev"));
  CHECK(derivation.input_derivations.at(kTextDir.parse(kPath + "i.drv")) ==
        std::set<std::string>{"dev", "out"});
  CHECK(derivation.input_sources == StorePaths{kTextDir.parse(kPath + "s")});
  CHECK(derivation.platform == "x86_64-linux");
  CHECK(derivation.builder == "/bin/sh");
  CHECK(derivation.arguments == std::vector<std::string>{"-c", "a\"b\\c\nd\te\rf"});
  CHECK(derivation.environment.at("k") == "v");
  CHECK(print_derivation(kTextDir, derivation) == text);
}

TEST_CASE("derivation: other escapes are read and written in the usual way", "[model]") {
  const auto text = with("", "", "", "(\"a\\q\",\"raw\nline\")");
  const auto derivation = parse_derivation(kTextDir, text);
  CHECK(derivation.environment.at("aq") == "raw\nline");
  CHECK(print_derivation(kTextDir, derivation) == with("", "", "", "(\"aq\",\"raw\\nline\")"));
}

TEST_CASE("derivation: no beginning of a text is a derivation", "[model][reject]") {
  const auto text = with("(\"out\",\"" + kPath + "a\",\"\",\"\")",
                         "(\"" + kPath + "i.drv\",[\"out\"])",
                         "\"" + kPath + "s\"",
                         "(\"k\",\"v\\n\")");
  CHECK(code(text).empty());
  for (std::size_t size = 0; size < text.size(); ++size) {
    const auto found = code(text.substr(0, size));
    CHECK(found == "derivation.syntax");
  }
  CHECK(code(text + "\n").empty());
  CHECK(code(text + "\n ") == "derivation.syntax");
  CHECK(code(text + ")") == "derivation.syntax");
  CHECK(code(" " + text) == "derivation.syntax");
}

TEST_CASE("derivation: lists come in any order, and are printed and hashed sorted", "[model]") {
  const auto outputs = [](bool sorted) {
    const std::string a = "(\"dev\",\"" + kPath + "n-dev\",\"\",\"\")";
    const std::string b = "(\"out\",\"" + kPath + "n\",\"\",\"\")";
    return sorted ? a + "," + b : b + "," + a;
  };
  const std::string x = "(\"" + kPath + "x.drv\",[\"a\",\"b\"])";
  const std::string turned = "(\"" + kPath + "x.drv\",[\"b\",\"a\"])";
  const std::string y = "(\"" + kPath + "y.drv\",[\"a\"])";
  const std::string s = "\"" + kPath + "s\"";
  const std::string t = "\"" + kPath + "t\"";
  const std::string u = "(\"a\",\"1\")";
  const std::string v = "(\"b\",\"2\")";
  const auto sorted = with(outputs(true), x + "," + y, s + "," + t, u + "," + v);
  const auto other = with(outputs(false), y + "," + turned, t + "," + s, v + "," + u) + "\n";
  const auto derivation = parse_derivation(kTextDir, other);
  CHECK(derivation == parse_derivation(kTextDir, sorted));
  CHECK(print_derivation(kTextDir, derivation) == sorted);
}

TEST_CASE("derivation: rejects duplicates", "[model][reject]") {
  const std::string a = "(\"a\",\"\",\"\",\"\")";
  const std::string b = "(\"b\",\"\",\"\",\"\")";
  CHECK(code(with(a + "," + b, "", "", "")).empty());
  CHECK(code(with(a + "," + b + "," + a, "", "", "")) == "derivation.duplicate");
  const std::string x = "(\"" + kPath + "x.drv\",[])";
  const std::string y = "(\"" + kPath + "y.drv\",[\"a\",\"b\"])";
  CHECK(code(with(a, x + "," + y, "", "")).empty());
  CHECK(code(with(a, x + "," + y + "," + x, "", "")) == "derivation.duplicate");
  CHECK(code(with(a, "(\"" + kPath + "x.drv\",[\"b\",\"a\",\"b\"])", "", "")) ==
        "derivation.duplicate");
  CHECK(code(with(a, "", "\"" + kPath + "y\",\"" + kPath + "y\"", "")) == "derivation.duplicate");
  CHECK(code(with(a, "", "", "(\"a\",\"1\"),(\"a\",\"2\")")) == "derivation.duplicate");
}

TEST_CASE("derivation: rejects bad parts with their own codes", "[model][reject]") {
  CHECK(code("DrvWithVersion(\"xp-dyn-drv\",") == "derivation.unsupported");
  CHECK(code(with("(\"out\",\"/tmp/x\",\"\",\"\")", "", "", "")) == "store-path.outside");
  CHECK(code(with("", "", "\"" + kPath + "\"", "")) == "store-path.name");
  CHECK(code(with("(\"o/t\",\"\",\"\",\"\")", "", "", "")) == "derivation.syntax");
  CHECK(code(with("(\"\",\"\",\"\",\"\")", "", "", "")) == "derivation.syntax");
  CHECK(code(with("(\"out\",\"\",\"\",\"00\")", "", "", "")) == "derivation.output");
  CHECK(code(with("(\"out\",\"\",\"sha3\",\"\")", "", "", "")) == "hash.algorithm");
}

TEST_CASE("derivation: limits on the text and its elements", "[model][reject]") {
  const auto text = with("", "", "", "(\"a\",\"1\"),(\"b\",\"2\"),(\"c\",\"3\")");
  CHECK(code(text, {.text_bytes = text.size(), .elements = 3}).empty());
  CHECK(code(text, {.text_bytes = text.size() - 1, .elements = 3}) == "derivation.limit");
  CHECK(code(text, {.text_bytes = text.size(), .elements = 2}) == "derivation.limit");
}

TEST_CASE("derivation output: the three texts decide the kind", "[model]") {
  const auto hex = hash_hex(Hash());
  CHECK(output(true, "", "").kind() == OutputKind::InputAddressed);
  CHECK(output(true, "r:sha256", hex).kind() == OutputKind::Fixed);
  CHECK(output(false, "r:sha256", "").kind() == OutputKind::Floating);
  CHECK(output(false, "r:sha256", "impure").kind() == OutputKind::Impure);
  CHECK(output(false, "", "").kind() == OutputKind::Deferred);
  CHECK(output(true, "r:sha256", hex).fixed_address() ==
        ContentAddress{ContentAddressMethod::NixArchive, Hash()});

  const auto kind_code = [](const DerivationOutput& value) {
    return error_code_of([&] { return value.kind(); });
  };
  CHECK(kind_code(output(true, "", hex)) == "derivation.output");
  CHECK(kind_code(output(false, "sha256", hex)) == "derivation.output");
  CHECK(kind_code(output(true, "sha256", "")) == "derivation.output");
  CHECK(kind_code(output(true, "sha256", "impure")) == "derivation.output");
  CHECK(kind_code(output(true, "sha1", hex)) == "derivation.output");
  CHECK(kind_code(output(true, "x", hex)) == "hash.algorithm");
  CHECK(error_code_of([] { return output(true, "", "").fixed_address(); }) == "derivation.output");
}

TEST_CASE("derivation: all outputs are of one kind", "[model][reject]") {
  BasicDerivation derivation;
  const auto kind_code = [&] {
    return error_code_of([&] { return derivation_kind(derivation); });
  };
  CHECK(kind_code() == "derivation.outputs");
  derivation.outputs["out"] = output(true, "sha256", hash_hex(Hash()));
  CHECK(derivation_kind(derivation) == OutputKind::Fixed);
  derivation.outputs["dev"] = output(true, "", "");
  CHECK(kind_code() == "derivation.outputs");
  derivation.outputs["dev"] = derivation.outputs["out"];
  CHECK(kind_code() == "derivation.outputs");
  derivation.outputs.erase("out");
  CHECK(kind_code() == "derivation.outputs");
  derivation.outputs["dev"] = output(false, "r:sha256", "");
  derivation.outputs["out"] = output(false, "r:sha256", "");
  CHECK(derivation_kind(derivation) == OutputKind::Floating);
  derivation.outputs["out"] = output(false, "r:sha1", "");
  CHECK(kind_code() == "derivation.outputs");
}
