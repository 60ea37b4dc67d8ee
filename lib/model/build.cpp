#include <nixbuild/model/build.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <fmt/format.h>

namespace nixbuild::model {

bool is_success(BuildStatus status) noexcept {
  switch (status) {
  case BuildStatus::Built:
  case BuildStatus::Substituted:
  case BuildStatus::AlreadyValid:
  case BuildStatus::ResolvesToAlreadyValid:
    return true;
  default:
    return false;
  }
}

std::string_view name_of(BuildStatus status) noexcept {
  switch (status) {
  case BuildStatus::Built:
    return "Built";
  case BuildStatus::Substituted:
    return "Substituted";
  case BuildStatus::AlreadyValid:
    return "AlreadyValid";
  case BuildStatus::PermanentFailure:
    return "PermanentFailure";
  case BuildStatus::InputRejected:
    return "InputRejected";
  case BuildStatus::OutputRejected:
    return "OutputRejected";
  case BuildStatus::TransientFailure:
    return "TransientFailure";
  case BuildStatus::CachedFailure:
    return "CachedFailure";
  case BuildStatus::TimedOut:
    return "TimedOut";
  case BuildStatus::MiscFailure:
    return "MiscFailure";
  case BuildStatus::DependencyFailed:
    return "DependencyFailed";
  case BuildStatus::LogLimitExceeded:
    return "LogLimitExceeded";
  case BuildStatus::NotDeterministic:
    return "NotDeterministic";
  case BuildStatus::ResolvesToAlreadyValid:
    return "ResolvesToAlreadyValid";
  case BuildStatus::NoSubstituters:
    return "NoSubstituters";
  }
  return "Unknown";
}

std::string
realisation_fingerprint(const Hash& derivation, std::string_view output, const StorePath& path) {
  // None of the texts has a character that JSON would escape.
  return fmt::format(R"({{"dependentRealisations":{{}},"id":"{}:{}!{}","outPath":"{}"}})",
                     name_of(derivation.algorithm()),
                     hash_hex(derivation),
                     output,
                     path.base_name());
}

} // namespace nixbuild::model
