#include "steps.hpp"

#include <nixbuild/base/encoding.hpp>

#include <fmt/format.h>

#include <array>
#include <map>
#include <set>

namespace nixbuild::build {

namespace {

/// Words of a blank-separated attribute.
std::set<std::string> words_of(const std::map<std::string, std::string>& environment,
                               const std::string& name) {
  std::set<std::string> words;
  const auto found = environment.find(name);
  if (found == environment.end()) {
    return words;
  }
  const std::string& text = found->second;
  constexpr std::string_view blanks = " \t\n\r";
  std::size_t begin = text.find_first_not_of(blanks);
  while (begin != std::string::npos) {
    const std::size_t end = text.find_first_of(blanks, begin);
    words.insert(text.substr(begin, end == std::string::npos ? end : end - begin));
    begin = text.find_first_not_of(blanks, end);
  }
  return words;
}

bool is_truthy(const std::map<std::string, std::string>& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found != environment.end() && found->second == "1";
}

void refuse_what_is_not_offered(const BuildRequest& request) {
  const auto& environment = request.derivation.environment;
  const auto name = request.derivation_path.base_name();
  if (is_truthy(environment, "__noChroot")) {
    throw BuildFailure(model::BuildStatus::InputRejected,
                       fmt::format("derivation '{}' asks to run outside the sandbox (__noChroot), "
                                   "which this builder never does",
                                   name));
  }
  if (environment.contains("__json")) {
    throw BuildFailure(model::BuildStatus::MiscFailure,
                       fmt::format("derivation '{}' uses structured attributes, which this builder "
                                   "does not offer yet",
                                   name));
  }
  if (environment.contains("exportReferencesGraph")) {
    throw BuildFailure(model::BuildStatus::MiscFailure,
                       fmt::format("derivation '{}' uses exportReferencesGraph, which this builder "
                                   "does not offer yet",
                                   name));
  }
}

} // namespace

void fill_environment(sandbox::GuestJob& job,
                      const BuildRequest& request,
                      const model::StoreDir& dir,
                      unsigned build_cores) {
  refuse_what_is_not_offered(request);
  const auto& given = request.derivation.environment;
  std::map<std::string, std::string> result;
  result["PATH"] = "/path-not-set";
  result["HOME"] = "/homeless-shelter";
  result["NIX_STORE"] = dir.text();
  result["NIX_BUILD_CORES"] = std::to_string(build_cores);

  const auto as_file = words_of(given, "passAsFile");
  for (const auto& [name, value] : given) {
    if (!as_file.contains(name)) {
      result[name] = value;
      continue;
    }
    const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of(name));
    sandbox::GuestFile file;
    file.name = ".attr-" + nix32_encode(digest.bytes());
    file.contents = value;
    result[name + "Path"] = job.build_dir + "/" + file.name;
    job.files.push_back(std::move(file));
  }
  for (const char* name : {"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"}) {
    result[name] = job.build_dir;
  }
  const auto kind = model::derivation_kind(request.derivation);
  if (kind == model::OutputKind::Fixed) {
    result["NIX_OUTPUT_CHECKED"] = "1";
    // The daemon's own environment is nobody's business: each name is there, and empty.
    for (const auto& name : words_of(given, "impureEnvVars")) {
      result[name] = "";
    }
  }
  result["NIX_LOG_FD"] = "2";
  result["TERM"] = "xterm-256color";
  job.environment.assign(result.begin(), result.end());
}

} // namespace nixbuild::build
