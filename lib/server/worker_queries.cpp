#include "build_graph.hpp"
#include "derivation_hashes.hpp"
#include "worker_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/store/derivation_file.hpp>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace worker = protocol::worker;

namespace {
/// The derivations that are valid and have `output` among their outputs. An output is named after
/// its derivation, with `-NAME` behind unless it is `out`, so few have to be read. Blocking.
model::StorePaths
derivers_of(store::Store& store, store::AccountId account, const model::StorePath& output) {
  std::vector<std::string> names;
  const auto name = output.name();
  for (auto end = name.size(); end != std::string_view::npos && end > 0;
       end = name.rfind('-', end - 1)) {
    names.push_back(std::string(name.substr(0, end)) + ".drv");
  }
  model::StorePaths found;
  for (const auto& candidate : store.db().paths_named(account, names)) {
    try {
      const auto derivation = store::load_derivation(store, account, candidate);
      for (const auto& [id, made] : derivation.outputs) {
        if (made.path == output) {
          found.push_back(candidate);
        }
      }
    } catch (const Error&) {
      // A file that is only called like a derivation has no outputs.
    }
  }
  return found;
}
} // namespace

/// How the store names what a realisation is of.
store::RealisationKey WorkerState::realisation_key(const worker::DrvOutput& output) const {
  const auto* hash = std::get_if<Hash>(&output.derivation);
  return {hash != nullptr ? model::hash_hex(*hash)
                          : std::get<model::StorePath>(output.derivation).base_name(),
          output.output,
          caller_.self_references};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::IsValidPath& request) {
  lease_.add(request.path);
  co_return worker::NumberReply{is_valid(parts_.store, account_, request.path) ? 1U : 0U};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryReferrers& request) {
  auto work = [this, &request] {
    return parts_.store.db().referrers(account_, request.path);
  };
  auto referrers = co_await parts_.pool.run(std::move(work));
  lease_.add(referrers);
  model::sort_unique(referrers);
  co_return worker::PathsReply{std::move(referrers)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryDeriver& request) {
  const auto info = parts_.store.db().path_info(account_, request.path);
  if (!info) {
    fail_invalid(request.path);
  }
  co_return worker::OptionalPathReply{info->deriver};
}

// Nothing is fetched from other caches, so nobody can be told of anything there.

aio::Task<worker::Reply> WorkerState::look_up(worker::QuerySubstitutablePathInfo&) {
  co_return worker::SubstitutableReply{};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QuerySubstitutablePathInfos&) {
  co_return worker::SubstitutablesReply{};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QuerySubstitutablePaths&) {
  co_return worker::PathsReply{};
}

/// Where the outputs of a derivation are, as far as that is known. They are leased.
aio::Task<WorkerState::OutputPaths> WorkerState::outputs_of(const model::StorePath& path) {
  auto look = [this, &path] {
    DerivationHashes hashes(parts_.store, account_);
    const auto derivation = store::load_derivation(parts_.store, account_, path);
    return output_paths(parts_.store, account_, hashes, derivation, caller_.self_references);
  };
  auto outputs = co_await parts_.pool.run(std::move(look));
  for (const auto& [name, made] : outputs) {
    if (made) {
      lease_.add(*made);
    }
  }
  co_return outputs;
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryDerivationOutputs& request) {
  const auto outputs = co_await outputs_of(request.path);
  model::StorePaths paths;
  for (const auto& [name, path] : outputs) {
    if (path) {
      paths.push_back(*path);
    }
  }
  model::sort_unique(paths);
  co_return worker::PathsReply{std::move(paths)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryDerivationOutputNames& request) {
  auto load = [this, &request] {
    return store::load_derivation(parts_.store, account_, request.path);
  };
  const auto derivation = co_await parts_.pool.run(std::move(load));
  worker::TextsReply reply;
  for (const auto& [name, output] : derivation.outputs) {
    reply.texts.push_back(name);
  }
  co_return reply;
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryDerivationOutputMap& request) {
  auto outputs = co_await outputs_of(request.path);
  co_return worker::OutputMapReply{std::move(outputs)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryAllValidPaths&) {
  auto work = [this] {
    return parts_.store.db().all_paths(account_);
  };
  auto paths = co_await parts_.pool.run(std::move(work));
  lease_.add(paths);
  model::sort_unique(paths);
  co_return worker::PathsReply{std::move(paths)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryPathInfo& request) {
  lease_.add(request.path);
  co_return worker::QueryPathInfoReply{parts_.store.db().path_info(account_, request.path)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryPathFromHashPart& request) {
  if (request.hash_part.size() != model::StorePath::kHashLength) {
    throw Error(Reaction::Reject,
                "worker.hash-part",
                "the hash part of a store path has 32 characters, not " +
                    std::to_string(request.hash_part.size()));
  }
  auto path = parts_.store.db().path_of_hash_part(account_, request.hash_part);
  if (path) {
    lease_.add(*path);
  }
  co_return worker::OptionalPathReply{std::move(path)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryValidPaths& request) {
  // Leased before they are looked up, so that nothing told to be valid can vanish between.
  lease_.add(request.paths);
  model::StorePaths valid;
  auto work = [this, &request, &valid] {
    valid = parts_.store.db().valid_paths(account_, request.paths);
    model::sort_unique(valid);
  };
  if (request.paths.size() <= kAnswerAtOnce) {
    work();
  } else {
    co_await parts_.pool.run(std::move(work));
  }
  co_return worker::PathsReply{std::move(valid)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryValidDerivers& request) {
  auto look = [this, &request] {
    return derivers_of(parts_.store, account_, request.path);
  };
  auto derivers = co_await parts_.pool.run(std::move(look));
  lease_.add(derivers);
  co_return worker::PathsReply{std::move(derivers)};
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryMissing& request) {
  auto load = [this, &request] {
    auto graph = load_build_graph(parts_.store, account_, request.targets, caller_.self_references);
    if (caller_.inside != nullptr) {
      expect_inside(parts_.store, account_, *caller_.inside, graph);
    }
    return graph;
  };
  const auto graph = co_await parts_.pool.run(std::move(load));
  worker::MissingReply reply;
  for (const auto& node : graph.nodes) {
    if (!node.valid) {
      reply.will_build.push_back(node.path);
    }
  }
  model::sort_unique(reply.will_build);
  reply.unknown.assign(graph.missing.begin(), graph.missing.end());
  co_return reply;
}

/// Outputs whose paths follow from their derivations are looked for when somebody asks: among the
/// derivations that this session has had built, as only a hash is given.
aio::Task<std::optional<model::Realisation>>
WorkerState::find_realisation(const worker::DrvOutput& output) {
  const auto key = realisation_key(output);
  if (auto known = parts_.store.db().realisation(account_, key)) {
    co_return known;
  }
  auto candidates = targets_;
  const auto* derivation = std::get_if<model::StorePath>(&output.derivation);
  if (derivation != nullptr) {
    candidates = {*derivation};
  }
  auto note = [this, &candidates] {
    DerivationHashes hashes(parts_.store, account_);
    for (const auto& candidate : candidates) {
      try {
        note_static_outputs(parts_.store, account_, hashes, candidate, parts_.builds.signing_key());
      } catch (const Error&) {
        // Gone, or no derivation: nothing is known of it.
      }
    }
  };
  co_await parts_.pool.run(std::move(note));
  for (const auto& candidate : candidates) {
    targets_.erase(candidate);
  }
  co_return parts_.store.db().realisation(account_, key);
}

aio::Task<worker::Reply> WorkerState::look_up(worker::QueryRealisation& request) {
  worker::RealisationsReply reply{request.id, {}};
  if (auto found = co_await find_realisation(request.id)) {
    lease_.add(found->path);
    reply.realisations.push_back(std::move(*found));
  }
  co_return reply;
}

aio::Task<void> WorkerState::perform(worker::NarFromPath& request) {
  lease_.add(request.path);
  if (!is_valid(parts_.store, account_, request.path)) {
    fail_invalid(request.path);
  }
  auto open = [this, &request] {
    return parts_.store.open_export(account_, request.path);
  };
  auto source = co_await parts_.pool.run(std::move(open));
  say(worker::Last{});
  try {
    co_await send_archive(source, out_->stream(), reply_, limits_.stalled);
  } catch (Error& error) {
    // Half an archive is out: no failure can be told behind it.
    throw Error(Reaction::Disconnected, error.code(), error.message());
  }
}

} // namespace nixbuild::server
