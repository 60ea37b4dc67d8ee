#include "model/derivation_text.hpp"

namespace nixbuild::model {

namespace {

void append_raw(std::string& out, std::string_view text) {
  out += '"';
  out += text;
  out += '"';
}

void append_escaped(std::string& out, std::string_view text) {
  out += '"';
  for (;;) {
    const auto special = text.find_first_of("\"\\\n\r\t");
    out += text.substr(0, special);
    if (special == std::string_view::npos) {
      break;
    }
    out += '\\';
    switch (text[special]) {
    case '\n':
      out += 'n';
      break;
    case '\r':
      out += 'r';
      break;
    case '\t':
      out += 't';
      break;
    default:
      out += text[special];
    }
    text.remove_prefix(special + 1);
  }
  out += '"';
}

/// `[a,b,c]`, each element written by `element`.
template <class Range, class Element>
void append_list(std::string& out, const Range& range, Element element) {
  out += '[';
  bool first = true;
  for (const auto& value : range) {
    if (!first) {
      out += ',';
    }
    first = false;
    element(value);
  }
  out += ']';
}

void append_outputs(std::string& out,
                    const StoreDir& dir,
                    const BasicDerivation& derivation,
                    bool masked) {
  append_list(out, derivation.outputs, [&](const auto& entry) {
    const auto& [name, output] = entry;
    out += '(';
    append_raw(out, name);
    out += ',';
    append_raw(out, output.path && !masked ? dir.print(*output.path) : std::string());
    out += ',';
    append_raw(out, output.method_algorithm);
    out += ',';
    append_raw(out, output.hash);
    out += ')';
  });
}

} // namespace

namespace detail {

std::string print_aterm(const StoreDir& dir,
                        const BasicDerivation& derivation,
                        const PrintedInputs& inputs,
                        bool masked) {
  std::string out = "Derive(";
  append_outputs(out, dir, derivation, masked);
  out += ',';
  append_list(out, inputs, [&](const auto& entry) {
    out += '(';
    append_raw(out, entry.first);
    out += ',';
    append_list(out, entry.second, [&](const std::string& name) { append_raw(out, name); });
    out += ')';
  });
  out += ',';
  append_list(out, derivation.input_sources, [&](const StorePath& path) {
    append_raw(out, dir.print(path));
  });
  out += ',';
  append_escaped(out, derivation.platform);
  out += ',';
  append_escaped(out, derivation.builder);
  out += ',';
  append_list(out, derivation.arguments, [&](const std::string& argument) {
    append_escaped(out, argument);
  });
  out += ',';
  append_list(out, derivation.environment, [&](const auto& entry) {
    out += '(';
    append_escaped(out, entry.first);
    out += ',';
    const bool blank = masked && derivation.outputs.contains(entry.first);
    append_escaped(out, blank ? std::string_view() : std::string_view(entry.second));
    out += ')';
  });
  out += ')';
  return out;
}

} // namespace detail

std::string print_derivation(const StoreDir& dir, const Derivation& derivation) {
  detail::PrintedInputs inputs;
  for (const auto& [path, outputs] : derivation.input_derivations) {
    inputs.emplace_hint(inputs.end(), dir.print(path), outputs);
  }
  return detail::print_aterm(dir, derivation, inputs, false);
}

} // namespace nixbuild::model
