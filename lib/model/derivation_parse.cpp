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
    if (offset_ != text_.size()) {
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

  [[noreturn]] void order(std::string_view what) const {
    throw Error(
        Reaction::Reject,
        "derivation.order",
        fmt::format("derivation: {} are not sorted and unique before offset {}", what, offset_));
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
      if (!out.outputs.empty() && out.outputs.rbegin()->first >= name) {
        order("outputs");
      }
      out.outputs.emplace_hint(out.outputs.end(), std::move(name), std::move(output));
    });
  }

  void input_derivations(Derivation& out) {
    list([&] {
      expect("(");
      StorePath input = path();
      expect(",");
      std::set<std::string> names;
      list([&] {
        std::string name = output_name();
        if (!names.empty() && *names.rbegin() >= name) {
          order("the outputs of an input derivation");
        }
        names.insert(names.end(), std::move(name));
      });
      expect(")");
      auto& inputs = out.input_derivations;
      if (!inputs.empty() && inputs.rbegin()->first >= input) {
        order("input derivations");
      }
      inputs.emplace_hint(inputs.end(), std::move(input), std::move(names));
    });
  }

  void input_sources(Derivation& out) {
    list([&] {
      StorePath source = path();
      if (!out.input_sources.empty() && out.input_sources.back() >= source) {
        order("input sources");
      }
      out.input_sources.push_back(std::move(source));
    });
  }

  void environment(Derivation& out) {
    list([&] {
      expect("(");
      std::string key = string();
      expect(",");
      std::string value = string();
      expect(")");
      if (!out.environment.empty() && out.environment.rbegin()->first >= key) {
        order("environment variables");
      }
      out.environment.emplace_hint(out.environment.end(), std::move(key), std::move(value));
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
