#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <fmt/format.h>

/// Grammar (protocol facts 4.5), no white space anywhere:
///
///     derivation := "Derive(" outputs "," inputs "," paths "," string "," string "," strings ","
///                   env ")"
///     outputs    := "[" ( "(" name "," path "," method "," hash ")" ),* "]"
///     inputs     := "[" ( "(" path "," names ")" ),* "]"
///     env        := "[" ( "(" string "," string ")" ),* "]"
///
/// Lists that stand for sets and maps may come in any order, as for Nix; duplicates are refused,
/// and so is everything behind the text but line feeds. What is made of the value (hashes modulo)
/// is printed in order; the path of the file itself is made of its bytes.
namespace nixbuild::model {

namespace {

class Parser {
public:
  Parser(const StoreDir& dir, std::string_view text, const DerivationLimits& limits)
      : dir_(dir), text_(text), limits_(limits) {}

  Derivation parse() {
    if (text_.starts_with("DrvWithVersion(")) {
      throw Error(Reaction::Unsupported,
                  "derivation.unsupported",
                  "dynamic derivations (DrvWithVersion) are not supported");
    }
    Derivation out;
    expect("Derive(");
    outputs(out);
    expect(",");
    input_derivations(out);
    expect(",");
    input_sources(out);
    expect(",");
    out.platform = string();
    expect(",");
    out.builder = string();
    expect(",");
    list([&] { out.arguments.push_back(string()); });
    expect(",");
    environment(out);
    expect(")");
    if (text_.find_first_not_of('\n', offset_) != std::string_view::npos) {
      syntax("the end of the text");
    }
    return out;
  }

private:
  [[noreturn]] void syntax(std::string_view expected) const {
    throw Error(Reaction::Reject,
                "derivation.syntax",
                fmt::format("derivation: expected {} at offset {}", expected, offset_));
  }

  /// `fresh`: what was just read is not there a second time.
  void expect_unique(bool fresh, std::string_view what) const {
    if (!fresh) {
      throw Error(Reaction::Reject,
                  "derivation.duplicate",
                  fmt::format("derivation: {} are not unique before offset {}", what, offset_));
    }
  }

  [[nodiscard]] bool accept(std::string_view token) {
    if (!text_.substr(offset_).starts_with(token)) {
      return false;
    }
    offset_ += token.size();
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) {
      syntax(token);
    }
  }

  template <class Element>
  void list(Element element) {
    expect("[");
    if (accept("]")) {
      return;
    }
    do {
      if (++elements_ > limits_.elements) {
        throw Error(Reaction::Reject,
                    "derivation.limit",
                    fmt::format("derivation: more than {} list elements", limits_.elements));
      }
      element();
    } while (accept(","));
    expect("]");
  }

  std::string string() {
    expect("\"");
    std::string out;
    for (;;) {
      const auto special = text_.find_first_of("\"\\", offset_);
      if (special == std::string_view::npos) {
        offset_ = text_.size();
        syntax("a closing quote");
      }
      out += text_.substr(offset_, special - offset_);
      offset_ = special + 1;
      if (text_[special] == '"') {
        return out;
      }
      if (offset_ == text_.size()) {
        syntax("an escaped character");
      }
      out += unescaped(text_[offset_]);
      ++offset_;
    }
  }

  static char unescaped(char c) {
    switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    default:
      return c;
    }
  }

  StorePath path() { return dir_.parse(string()); }

  /// Output names become parts of store path names.
  std::string output_name() {
    std::string name = string();
    if (!valid_output_name(name)) {
      syntax("an output name before this");
    }
    return name;
  }

  void outputs(Derivation& out) {
    list([&] {
      expect("(");
      std::string name = output_name();
      expect(",");
      DerivationOutput output;
      const std::string place = string();
      if (!place.empty()) {
        output.path = dir_.parse(place);
      }
      expect(",");
      output.method_algorithm = string();
      expect(",");
      output.hash = string();
      expect(")");
      static_cast<void>(output.kind());
      expect_unique(out.outputs.emplace(std::move(name), std::move(output)).second, "outputs");
    });
  }

  void input_derivations(Derivation& out) {
    list([&] {
      expect("(");
      StorePath input = path();
      expect(",");
      std::set<std::string> names;
      list([&] {
        expect_unique(names.insert(output_name()).second, "the outputs of an input derivation");
      });
      expect(")");
      expect_unique(out.input_derivations.emplace(std::move(input), std::move(names)).second,
                    "input derivations");
    });
  }

  void input_sources(Derivation& out) {
    list([&] { out.input_sources.push_back(path()); });
    const auto given = out.input_sources.size();
    sort_unique(out.input_sources);
    expect_unique(out.input_sources.size() == given, "input sources");
  }

  void environment(Derivation& out) {
    list([&] {
      expect("(");
      std::string key = string();
      expect(",");
      std::string value = string();
      expect(")");
      expect_unique(out.environment.emplace(std::move(key), std::move(value)).second,
                    "environment variables");
    });
  }

  const StoreDir& dir_;
  std::string_view text_;
  const DerivationLimits& limits_;
  std::size_t offset_ = 0;
  std::size_t elements_ = 0;
};

} // namespace

Derivation
parse_derivation(const StoreDir& dir, std::string_view text, const DerivationLimits& limits) {
  if (text.size() > limits.text_bytes) {
    throw Error(Reaction::Reject,
                "derivation.limit",
                fmt::format("a derivation of {} bytes exceeds {}", text.size(), limits.text_bytes));
  }
  return Parser(dir, text, limits).parse();
}

} // namespace nixbuild::model
