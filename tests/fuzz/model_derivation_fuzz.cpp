// A text that is accepted as a derivation prints to its own bytes, perhaps in another order and
// without line feeds behind it, when it uses only the escapes that Nix writes; in any case what is
// printed reads back as the same value. Whatever is refused is refused with an Error.

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/derivation.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

using namespace nixbuild;

namespace {

std::string in_order(std::string_view text) {
  std::string bytes(text);
  std::sort(bytes.begin(), bytes.end());
  return bytes;
}

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
  std::string_view text = text_of({data, size});
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
  text = text.substr(0, text.find_last_not_of('\n') + 1);
  if (canonical(text) && in_order(printed) != in_order(text)) {
    std::abort();
  }
  return 0;
}
