#include "environment.hpp"

#include "steps.hpp"

#include <nixbuild/base/encoding.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace nixbuild::build {

namespace {

void refuse_what_is_not_offered(const BuildRequest& request, const DerivationOptions& options) {
  const auto name = request.derivation_path.base_name();
  if (options.no_chroot) {
    throw BuildFailure(model::BuildStatus::InputRejected,
                       fmt::format("derivation '{}' asks to run outside the sandbox (__noChroot), "
                                   "which this builder never does",
                                   name));
  }
  if (!options.impure_host_dependencies.empty()) {
    throw BuildFailure(model::BuildStatus::InputRejected,
                       fmt::format("derivation '{}' asks for paths of the machine it is built on "
                                   "(__impureHostDeps: {}), which this builder never gives",
                                   name,
                                   fmt::join(options.impure_host_dependencies, " ")));
  }
}

using Variables = std::map<std::string, std::string>;

/// The derivation's own variables, some of them as files.
void add_own_variables(sandbox::GuestJob& job,
                       Variables& result,
                       const Variables& given,
                       const DerivationOptions& options,
                       const Rewrites& rewrites) {
  for (const auto& [name, value] : given) {
    if (!options.pass_as_file.contains(name)) {
      result[name] = value;
      continue;
    }
    const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of(name));
    sandbox::GuestFile file;
    file.name = ".attr-" + nix32_encode(digest.bytes());
    file.contents = rewritten(value, rewrites);
    result[name + "Path"] = job.build_dir + "/" + file.name;
    job.files.push_back(std::move(file));
  }
}

} // namespace

Rewrites placeholder_rewrites(const model::StoreDir& dir,
                              const std::vector<sandbox::GuestOutput>& outputs) {
  Rewrites rewrites;
  for (const auto& output : outputs) {
    rewrites.emplace_back(model::output_placeholder(output.name),
                          fmt::format("{}/{}", dir.text(), output.store_name));
  }
  return rewrites;
}

std::string rewritten(std::string text, const Rewrites& rewrites) {
  for (const auto& [from, to] : rewrites) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  }
  return text;
}

void fill_environment(sandbox::GuestJob& job,
                      const BuildRequest& request,
                      const DerivationOptions& options,
                      const Surroundings& surroundings,
                      const Rewrites& rewrites) {
  refuse_what_is_not_offered(request, options);
  Variables result;
  result["PATH"] = "/path-not-set";
  result["HOME"] = "/homeless-shelter";
  result["NIX_STORE"] = surroundings.dir.text();
  result["NIX_BUILD_CORES"] = std::to_string(surroundings.build_cores);
  if (options.structured) {
    result["NIX_ATTRS_SH_FILE"] = job.build_dir + "/.attrs.sh";
    result["NIX_ATTRS_JSON_FILE"] = job.build_dir + "/.attrs.json";
  } else {
    add_own_variables(job, result, request.derivation.environment, options, rewrites);
  }
  for (const char* name : {"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"}) {
    result[name] = job.build_dir;
  }
  const auto kind = model::derivation_kind(request.derivation);
  if (kind == model::OutputKind::Fixed) {
    result["NIX_OUTPUT_CHECKED"] = "1";
  }
  if (has_network(kind)) {
    // The daemon's own environment is nobody's business: what is not configured is there, and
    // empty.
    for (const auto& name : options.impure_variables) {
      std::string& value = result[name];
      value.clear();
      if (surroundings.impure != nullptr) {
        const auto found = surroundings.impure->find(name);
        value = found == surroundings.impure->end() ? value : found->second;
      }
    }
  }
  if (options.talks_to_store()) {
    result["NIX_REMOTE"] = fmt::format("unix://{}/{}", job.build_dir, sandbox::kStoreSocket);
  }
  result["NIX_LOG_FD"] = "2";
  result["TERM"] = "xterm-256color";
  for (const auto& [name, value] : result) {
    job.environment.emplace_back(name, rewritten(value, rewrites));
  }
  for (const auto& argument : request.derivation.arguments) {
    job.arguments.push_back(rewritten(argument, rewrites));
  }
}

void set_up_builtin(sandbox::GuestJob& job, const BuildNetwork* network) {
  job.arguments.clear();
  if (network == nullptr) {
    return;
  }
  job.arguments = {"network=1", "certificates=/etc/ssl/certs/ca-certificates.crt"};
  for (const char* name : {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}) {
    const auto found = network->impure_environment.find(name);
    if (found != network->impure_environment.end()) {
      job.arguments.push_back(fmt::format("{}={}", name, found->second));
    }
  }
  if (!network->netrc.empty() && job.builder == "builtin:fetchurl") {
    sandbox::GuestFile file;
    file.name = ".netrc";
    file.contents = network->netrc;
    job.arguments.push_back(fmt::format("netrc={}/{}", job.build_dir, file.name));
    job.files.push_back(std::move(file));
  }
}

} // namespace nixbuild::build
