#include "steps.hpp"

#include <nixbuild/base/error.hpp>

#include <cstring>
#include <string>

namespace nixbuild::build {

namespace {

constexpr std::uint64_t kForm = 3;
constexpr std::uint64_t kFormWithoutDisk = 2;
constexpr std::uint64_t kFormWithoutSelfReferences = 1;

void put(std::string& text, std::uint64_t number) {
  for (int i = 0; i < 8; ++i) {
    text.push_back(static_cast<char>(number >> (8 * i) & 0xff));
  }
}

void put(std::string& text, std::string_view words) {
  put(text, std::uint64_t{words.size()});
  text += words;
}

class Taker {
public:
  explicit Taker(std::string_view text) : text_(text) {}

  std::uint64_t number() {
    const auto bytes = take(8);
    std::uint64_t value = 0;
    for (std::size_t i = 8; i > 0; --i) {
      value = value << 8 | static_cast<std::uint8_t>(bytes[i - 1]);
    }
    return value;
  }

  std::string_view words() { return take(number()); }

  std::chrono::seconds seconds() {
    return std::chrono::seconds(static_cast<std::int64_t>(number()));
  }

  void end() const {
    if (!text_.empty()) {
      fail();
    }
  }

  [[noreturn]] static void fail() {
    throw Error(Reaction::Corrupt, "build.request", "the record of an open build cannot be read");
  }

private:
  std::string_view take(std::uint64_t count) {
    if (count > text_.size()) {
      fail();
    }
    const auto taken = text_.substr(0, static_cast<std::size_t>(count));
    text_.remove_prefix(taken.size());
    return taken;
  }

  std::string_view text_;
};

} // namespace

std::string derivation_text(const model::StoreDir& dir, const model::BasicDerivation& derivation) {
  model::Derivation whole;
  static_cast<model::BasicDerivation&>(whole) = derivation;
  return model::print_derivation(dir, whole);
}

std::string
request_text(const model::StoreDir& dir, const BuildRequest& request, const BuildPolicy& policy) {
  std::string text;
  put(text, kForm);
  put(text, request.derivation_path.base_name());
  put(text, derivation_text(dir, request.derivation));
  const auto& options = request.options;
  put(text, static_cast<std::uint64_t>(options.max_silent_time.count()));
  put(text, static_cast<std::uint64_t>(options.timeout.count()));
  put(text, options.max_log_bytes.value_or(0));
  put(text, static_cast<std::uint64_t>(policy.keep));
  put(text, static_cast<std::uint64_t>(policy.grace.count()));
  put(text,
      std::uint64_t{policy.reuse_failures} | std::uint64_t{policy.reuse_timeouts} << 1 |
          std::uint64_t{policy.share_results} << 2 | std::uint64_t{request.check} << 3 |
          std::uint64_t{policy.keep_failed || request.options.keep_failed.value_or(false)} << 4 |
          std::uint64_t{policy.input_database} << 5 | std::uint64_t{policy.build_twice} << 6 |
          std::uint64_t{request.proven} << 7);
  put(text, std::uint64_t{policy.max_restarts});
  put(text, policy.max_memory_bytes);
  put(text, static_cast<std::uint64_t>(request.self_references));
  put(text, policy.disk_bytes);
  return text;
}

BuildRequest
parse_request(const model::StoreDir& dir, store::AccountId account, std::string_view text) {
  Taker from(text);
  const auto form = from.number();
  if (form != kForm && form != kFormWithoutDisk && form != kFormWithoutSelfReferences) {
    Taker::fail();
  }
  auto path = model::StorePath::parse(from.words());
  BuildRequest request{
      account, std::move(path), model::parse_derivation(dir, from.words()), {}, BuildPolicy{}};
  request.options.max_silent_time = from.seconds();
  request.options.timeout = from.seconds();
  if (const auto limit = from.number(); limit != 0) {
    request.options.max_log_bytes = limit;
  }
  auto& policy = *request.policy;
  const auto keep = from.number();
  if (keep > static_cast<std::uint64_t>(KeepRunning::Keep)) {
    Taker::fail();
  }
  policy.keep = static_cast<KeepRunning>(keep);
  policy.grace = from.seconds();
  const auto flags = from.number();
  policy.reuse_failures = (flags & 1) != 0;
  policy.reuse_timeouts = (flags & 2) != 0;
  policy.share_results = (flags & 4) != 0;
  request.check = (flags & 8) != 0;
  policy.keep_failed = (flags & 16) != 0;
  policy.input_database = (flags & 32) != 0;
  policy.build_twice = (flags & 64) != 0;
  request.proven = (flags & 128) != 0;
  policy.max_restarts = static_cast<unsigned>(from.number());
  policy.max_memory_bytes = from.number();
  if (form != kFormWithoutSelfReferences &&
      from.number() == static_cast<std::uint64_t>(model::SelfReferences::Plain)) {
    request.self_references = model::SelfReferences::Plain;
  }
  if (form == kForm) {
    policy.disk_bytes = from.number();
  }
  from.end();
  return request;
}

} // namespace nixbuild::build
