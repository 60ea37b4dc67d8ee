#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/registration.hpp>

#include <fmt/format.h>

#include <charconv>

namespace nixbuild::model {

namespace {

class Lines {
public:
  explicit Lines(std::string_view text) : text_(text) {}

  [[nodiscard]] bool at_end() const noexcept { return text_.empty(); }

  std::string_view next() {
    const auto end = text_.find('\n');
    if (end == std::string_view::npos) {
      syntax("the end of a line");
    }
    ++line_;
    const auto out = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return out;
  }

  std::uint64_t number() {
    const auto text = next();
    std::uint64_t out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error != std::errc() || end != text.data() + text.size()) {
      syntax("a number");
    }
    return out;
  }

private:
  [[noreturn]] void syntax(std::string_view expected) const {
    throw Error(Reaction::Reject,
                "registration.syntax",
                fmt::format("registration text: expected {} at line {}", expected, line_));
  }

  std::string_view text_;
  std::size_t line_ = 0;
};

} // namespace

std::string
print_registration(const StoreDir& dir, std::span<const PathInfo> infos, RegistrationForm form) {
  const bool database = form == RegistrationForm::Database;
  std::string out;
  for (const auto& info : infos) {
    out += dir.print(info.path) + '\n';
    if (database) {
      out += fmt::format("{}\n{}\n", hash_hex(info.nar_hash), info.nar_size);
    }
    out += database && info.deriver ? dir.print(*info.deriver) : std::string();
    out += fmt::format("\n{}\n", info.references.size());
    for (const auto& reference : info.references) {
      out += dir.print(reference) + '\n';
    }
  }
  return out;
}

std::vector<PathInfo> parse_registration(const StoreDir& dir, std::string_view text) {
  std::vector<PathInfo> out;
  Lines lines(text);
  while (!lines.at_end()) {
    PathInfo info{.path = dir.parse(lines.next()),
                  .deriver = {},
                  .nar_hash = parse_hash(lines.next(), HashAlgorithm::Sha256),
                  .nar_size = lines.number(),
                  .references = {},
                  .registration_time = 0,
                  .ultimate = false,
                  .signatures = {},
                  .content_address = {}};
    if (const auto deriver = lines.next(); !deriver.empty()) {
      info.deriver = dir.parse(deriver);
    }
    for (std::uint64_t left = lines.number(); left > 0; --left) {
      info.references.push_back(dir.parse(lines.next()));
    }
    sort_unique(info.references);
    out.push_back(std::move(info));
  }
  return out;
}

} // namespace nixbuild::model
