// A text that is accepted as a derivation prints to itself when it uses only the escapes that Nix
// writes; in any case what is printed reads back as the same value. Whatever is refused is refused
// with an Error.

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <cstdint>
#include <cstdlib>
#include <optional>

using namespace nixbuild;

namespace {

/// Only the escapes of the printer, and none of the characters that it escapes.
bool canonical(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (std::string_view("\n\r\t").find(text[i]) != std::string_view::npos) {
      return false;
    }
    if (text[i] == '\\') {
      ++i;
      if (i == text.size() || std::string_view("\"\\nrt").find(text[i]) == std::string_view::npos) {
        return false;
      }
    }
  }
  return true;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const model::StoreDir dir;
  const std::string_view text = text_of({data, size});
  std::optional<model::Derivation> derivation;
  try {
    derivation = model::parse_derivation(dir, text);
  } catch (const Error&) {
    return 0;
  }
  const auto printed = model::print_derivation(dir, *derivation);
  if (model::parse_derivation(dir, printed) != *derivation) {
    std::abort();
  }
  if (canonical(text) && printed != text) {
    std::abort();
  }
  return 0;
}
