#include "sent_derivation.hpp"

#include "archive_intake.hpp"
#include "derivation_hashes.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

namespace nixbuild::server {

namespace {

using model::OutputKind;

/// As it came, with nothing behind it but paths.
model::Derivation alone(const model::BasicDerivation& sent) {
  model::Derivation derivation;
  static_cast<model::BasicDerivation&>(derivation) = sent;
  return derivation;
}

model::HashModulo nothing_behind(const model::StorePath&) {
  return {};
}

/// The sources of a derivation that is sent to be built are what its inputs came out as, mostly;
/// where they are its own, everything follows from what came.
bool follows_by_itself(const model::StoreDir& dir,
                       const model::StorePath& path,
                       const model::Derivation& derivation) {
  try {
    return model::outputs_follow(dir, path, derivation, nothing_behind);
  } catch (const Error&) {
    if (model::derivation_path(dir, model::derivation_name(path), derivation) == path) {
      throw; // it is whole, and wrong
    }
    return false;
  }
}

[[noreturn]] void
throw_other(const model::StoreDir& dir, const model::StorePath& path, std::string_view what) {
  throw Error(Reaction::Reject,
              "derivation.other",
              fmt::format("derivation '{}' has another {} than the file of that name in the store",
                          dir.print(path),
                          what));
}

void expect_outputs_of(const model::StoreDir& dir,
                       const model::StorePath& path,
                       const model::BasicDerivation& sent,
                       const model::Derivation& file) {
  for (const auto& [name, output] : sent.outputs) {
    const auto known = file.outputs.find(name);
    if (known == file.outputs.end() || !known->second.path) {
      throw_other(dir, path, fmt::format("output '{}'", name));
    }
    if (output.path != known->second.path) {
      throw Error(Reaction::Reject,
                  "derivation.paths",
                  fmt::format("derivation '{}' has incorrect output path '{}', should be '{}'",
                              dir.print(path),
                              dir.print(output.path.value()),
                              dir.print(*known->second.path)));
    }
  }
}

/// False: the same as far as can be told (structured attributes may be written in several ways).
bool has_words_of(const model::StoreDir& dir,
                  const model::StorePath& path,
                  const model::BasicDerivation& sent,
                  const model::Derivation& file) {
  if (sent.builder != file.builder || sent.arguments != file.arguments) {
    throw_other(dir, path, "builder or other arguments");
  }
  if (sent.platform != file.platform) {
    throw_other(dir, path, "platform");
  }
  auto said = sent.environment;
  auto written = file.environment;
  if (said == written) {
    return true;
  }
  said.erase("__json");
  written.erase("__json");
  if (said != written) {
    throw_other(dir, path, "environment");
  }
  return false;
}

/// What the inputs of the file are, as paths; nothing where one of them is not known.
std::optional<model::StorePaths>
input_paths(store::Store& store, const build::BuildRequest& sent, const model::Derivation& file) {
  DerivationHashes hashes(store, sent.account);
  auto paths = file.input_sources;
  for (const auto& [input, wanted] : file.input_derivations) {
    const auto made = store::load_derivation(store, sent.account, input);
    const auto outputs = output_paths(store, sent.account, hashes, made, sent.self_references);
    for (const auto& name : wanted) {
      const auto output = outputs.find(name);
      if (output == outputs.end() || !output->second) {
        return std::nullopt;
      }
      paths.push_back(*output->second);
    }
  }
  model::sort_unique(paths);
  return paths;
}

bool is_part(const model::StorePaths& part, const model::StorePaths& whole) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

/// Whether the sources are the inputs of the file, with or without what they refer to.
bool has_inputs_of(store::Store& store,
                   const build::BuildRequest& sent,
                   const model::Derivation& file) {
  const auto inputs = input_paths(store, sent, file);
  if (!inputs) {
    return false;
  }
  auto closure = store.db().closure(sent.account, *inputs);
  model::sort_unique(closure);
  const auto& sources = sent.derivation.input_sources;
  return is_part(*inputs, sources) && is_part(sources, closure);
}

bool follows_from_file(store::Store& store, const build::BuildRequest& sent) {
  const auto& path = sent.derivation_path;
  const auto file = store::load_derivation(store, sent.account, path);
  if (model::derivation_kind(file) != OutputKind::InputAddressed) {
    return false; // it has been resolved elsewhere
  }
  DerivationHashes hashes(store, sent.account);
  if (!hashes.outputs_follow(path, file)) {
    return false;
  }
  expect_outputs_of(store.dir(), path, sent.derivation, file);
  return has_words_of(store.dir(), path, sent.derivation, file) && has_inputs_of(store, sent, file);
}

} // namespace

bool sent_outputs_follow(store::Store& store, const build::BuildRequest& sent) {
  const auto derivation = alone(sent.derivation);
  const auto& path = sent.derivation_path;
  if (model::derivation_kind(derivation) != OutputKind::InputAddressed) {
    return model::outputs_follow(store.dir(), path, derivation, nothing_behind);
  }
  if (follows_by_itself(store.dir(), path, derivation)) {
    return true;
  }
  if (!is_valid(store, sent.account, path)) {
    return false;
  }
  try {
    return follows_from_file(store, sent);
  } catch (const Error& error) {
    if (error.code() == "derivation.paths" || error.code() == "derivation.deferred" ||
        error.code() == "derivation.other") {
      throw;
    }
    return false; // too little of it is here, or it is not read
  }
}

aio::Task<std::optional<model::BuildResult>> judge(const SessionParts& parts,
                                                   build::BuildRequest& sent) {
  std::optional<model::BuildResult> refusal;
  auto work = [&parts, &sent, &refusal] {
    try {
      sent.proven = sent_outputs_follow(parts.store, sent);
    } catch (const Error& error) {
      if (error.reaction() != Reaction::Reject) {
        throw;
      }
      refusal.emplace();
      refusal->status = model::BuildStatus::InputRejected;
      refusal->error = error.message();
    }
  };
  co_await parts.pool.run(std::move(work));
  co_return refusal;
}

} // namespace nixbuild::server
