#include "graph_run.hpp"

#include "derivation_hashes.hpp"

#include <nixbuild/aio/event.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/model/resolve.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <queue>
#include <span>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;

namespace {

/// Shared by the request and the builds it has started, all on the session's strand: whoever is
/// last frees it.
struct GraphRun {
  GraphRun(const SessionParts& p,
           SessionCaller whose,
           GraphOrder o,
           std::shared_ptr<HangUpWatch> c,
           BuildGraph g)
      : parts(p), caller(std::move(whose)), lease(p.store.lease(caller.account)),
        order(std::move(o)), client(std::move(c)), graph(std::move(g)),
        waiting_for(graph.nodes.size()), results(graph.nodes.size()), asked_for(graph.nodes.size()),
        explanations(graph.nodes.size()) {}

  const SessionParts& parts;
  SessionCaller caller;
  store::Lease lease; ///< what was built, until the session has taken it over
  GraphOrder order;
  std::shared_ptr<HangUpWatch> client;
  BuildGraph graph;
  std::vector<std::size_t> waiting_for; ///< inputs that are not done
  std::vector<std::optional<model::BuildResult>> results;
  std::vector<bool> asked_for;           ///< targets: their results are told
  std::vector<std::string> explanations; ///< of targets that failed; each is told once
  std::priority_queue<std::pair<std::size_t, std::size_t>> ready; ///< (height, node)
  std::size_t running = 0;
  bool stop = false;
  std::exception_ptr failure;
  std::string cause; ///< of the first build that failed
  aio::Event changed;

  void begin();
  void settle(std::size_t index, model::BuildResult result);
  [[nodiscard]] build::BuildRequest request_for(std::size_t index) const;
  [[nodiscard]] std::optional<model::BuildResult> without_building(std::size_t index) const;
};

model::BuildResult failed(model::BuildStatus status, std::string message) {
  model::BuildResult result;
  result.status = status;
  result.error = std::move(message);
  return result;
}

void GraphRun::begin() {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    waiting_for[i] = graph.nodes[i].inputs.size();
  }
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    if (waiting_for[i] == 0) {
      ready.emplace(graph.nodes[i].height, i);
    }
  }
  // Before anything is built for them in vain.
  for (std::size_t i = 0; i < graph.nodes.size() && !stop; ++i) {
    if (!graph.nodes[i].refused.empty() && !order.keep_going) {
      settle(i, failed(model::BuildStatus::InputRejected, graph.nodes[i].refused));
    }
  }
}

void GraphRun::settle(std::size_t index, model::BuildResult result) {
  if (!model::is_success(result.status)) {
    stop = stop || !order.keep_going;
    if (cause.empty()) {
      cause = result.error;
    }
  }
  results[index] = std::move(result);
  for (const auto dependant : graph.nodes[index].dependants) {
    if (--waiting_for[dependant] == 0) {
      ready.emplace(graph.nodes[dependant].height, dependant);
    }
  }
  changed.notify();
}

std::optional<model::BuildResult> GraphRun::without_building(std::size_t index) const {
  const auto& node = graph.nodes[index];
  const auto& dir = parts.store.dir();
  if (node.valid) {
    model::BuildResult result;
    result.status = model::BuildStatus::AlreadyValid;
    for (const auto& name : node.wanted) {
      result.outputs.insert_or_assign(name, model::Realisation{*node.outputs.at(name), {}});
    }
    return result;
  }
  if (!node.refused.empty()) {
    return failed(model::BuildStatus::InputRejected, node.refused);
  }
  for (const auto& [input, outputs] : node.derivation.input_derivations) {
    const auto place = graph.places.find(input);
    const bool built =
        place != graph.places.end() && model::is_success(results[place->second]->status);
    if (!built) {
      return failed(model::BuildStatus::DependencyFailed,
                    graph.missing.contains(input)
                        ? fmt::format("derivation '{}' is not valid in the store", dir.print(input))
                        : fmt::format("dependency '{}' failed: {}",
                                      dir.print(input),
                                      results[place->second]->error));
    }
  }
  for (const auto& source : node.derivation.input_sources) {
    if (graph.missing.contains(source)) {
      return failed(model::BuildStatus::DependencyFailed,
                    fmt::format("path '{}' is required, but there is no substituter that can "
                                "build it",
                                dir.print(source)));
    }
  }
  return std::nullopt;
}

build::BuildRequest GraphRun::request_for(std::size_t index) const {
  const auto& node = graph.nodes[index];
  model::InputPaths inputs;
  for (const auto& [input, outputs] : node.derivation.input_derivations) {
    for (const auto& [name, output] : results[graph.places.at(input)]->outputs) {
      inputs[input].insert_or_assign(name, output.path);
    }
  }
  auto resolved = model::resolve_derivation(parts.store.dir(), node.path, node.derivation, inputs);
  auto request = caller.order(resolved.path, std::move(resolved.derivation), order.options);
  request.placement.builds_behind = node.height;
  request.check = node.check;
  request.proven = node.proven;
  return request;
}

/// Where the outputs came out, for those who ask by the derivation as it was before its inputs were
/// known, or by its hash. Blocking.
void register_outputs(const GraphRun& run, std::size_t index, const model::BuildResult& result) {
  const auto& node = run.graph.nodes[index];
  if (!model::is_success(result.status)) {
    return;
  }
  const auto* key = node.proven ? run.parts.builds.signing_key() : nullptr;
  const auto form = run.caller.self_references;
  const bool moves = has_realisations(model::derivation_kind(node.derivation));
  std::vector<store::StoredRealisation> made;
  for (const auto& [name, output] : result.outputs) {
    if (moves) {
      made.push_back({{node.path.base_name(), name, form}, {output.path, {}}});
    }
    if (const auto hash = node.names.find(name); hash != node.names.end()) {
      const auto forms = moves ? std::span(&form, 1) : std::span(kEveryForm);
      add_realisation(made, hash->second, name, output.path, forms, key);
    }
  }
  run.parts.store.db().register_realisations(run.caller.account, made);
}

/// A failure tells its last lines once: in the error of its target, else as soon as it is there.
aio::Task<void> explain(std::shared_ptr<GraphRun> run,
                        std::size_t index,
                        std::string recorded,
                        BuildListener& listener,
                        const model::BuildResult& result) {
  std::string text = listener.explanation(recorded);
  if (run->asked_for[index]) {
    run->explanations[index] = std::move(text);
  } else if (!text.empty()) {
    co_await listener.say_failure(result.error + text);
  }
}

aio::Task<void> build_one(std::shared_ptr<GraphRun> run, std::size_t index) {
  const auto listener = run->order.listen(run->graph.nodes[index].path);
  co_await listener->begin();
  auto wanted = run->request_for(index);
  std::string recorded = run->caller.inside != nullptr
                             ? std::string()
                             : run->parts.store.dir().print(wanted.derivation_path);
  auto attachment = co_await run->parts.builds.ask(std::move(wanted));
  model::BuildResult result;
  std::exception_ptr failure;
  try {
    const BuildAsker asker{
        run->caller, run->lease, *run->client, run->stop, run->order.emulation_told};
    result = co_await follow_build(run->parts, asker, std::move(attachment), *listener);
    auto work = [&run, index, &result] {
      register_outputs(*run, index, result);
    };
    co_await run->parts.pool.run(std::move(work));
  } catch (...) {
    failure = std::current_exception();
    result = failed(model::BuildStatus::MiscFailure, "the build is not wanted any more");
  }
  if (!run->client->gone()) {
    co_await listener->end(result);
    if (!failure && !model::is_success(result.status)) {
      co_await explain(run, index, std::move(recorded), *listener, result);
    }
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
  run->settle(index, std::move(result));
}

} // namespace

Error builds_nothing() {
  return Error(Reaction::Reject,
               "worker.max-jobs",
               "unable to start any build: the client's option 'max-jobs' is 0");
}

namespace {

void start(const std::shared_ptr<GraphRun>& run, std::size_t index, asio::any_io_executor strand) {
  ++run->running;
  auto ended = [run](std::exception_ptr failure) {
    --run->running;
    // Builds that were told to stop end with an error that says nothing new.
    if (failure && !run->stop) {
      run->failure = failure;
      run->stop = true;
    }
    run->changed.notify();
  };
  asio::co_spawn(std::move(strand), build_one(run, index), std::move(ended));
}

void start_ready(const std::shared_ptr<GraphRun>& run, const asio::any_io_executor& strand) {
  while (!run->stop && !run->ready.empty() && run->running < kBuildsAtOnce) {
    const auto index = run->ready.top().second;
    run->ready.pop();
    if (auto result = run->without_building(index)) {
      run->settle(index, std::move(*result));
    } else if (!run->order.may_build) {
      run->failure = std::make_exception_ptr(builds_nothing());
      run->stop = true;
    } else {
      start(run, index, strand);
    }
  }
}

/// The nodes that cannot be built because of what has failed.
std::vector<bool> behind_failures(const GraphRun& run) {
  std::vector<bool> behind(run.results.size());
  std::vector<std::size_t> todo;
  for (std::size_t i = 0; i < run.results.size(); ++i) {
    if (run.results[i] && !model::is_success(run.results[i]->status)) {
      todo.push_back(i);
    }
  }
  while (!todo.empty()) {
    const auto failed = todo.back();
    todo.pop_back();
    for (const auto dependant : run.graph.nodes[failed].dependants) {
      if (!behind[dependant]) {
        behind[dependant] = true;
        todo.push_back(dependant);
      }
    }
  }
  return behind;
}

/// What is known of a target at the end; nothing when it was left alone after a failure that it has
/// no part in.
std::optional<model::BuildResult> result_of(const GraphRun& run,
                                            const std::vector<bool>& behind_failure,
                                            const protocol::DerivedPath& target) {
  const auto& dir = run.parts.store.dir();
  const bool itself = target.wants == protocol::DerivedPath::Wants::Path;
  if (itself && run.graph.leaves.contains(target.path)) {
    return failed(model::BuildStatus::AlreadyValid, {});
  }
  const auto place = run.graph.places.find(target.path);
  if (itself || place == run.graph.places.end()) {
    return failed(model::BuildStatus::NoSubstituters,
                  fmt::format("path '{}' does not exist in the store and there is no substituter "
                              "that can build it",
                              dir.print(target.path)));
  }
  const auto& result = run.results[place->second];
  if (!result && !behind_failure[place->second]) {
    return std::nullopt;
  }
  if (!result) {
    return failed(model::BuildStatus::DependencyFailed,
                  fmt::format("'{}' was not built because another build failed: {}",
                              dir.print(target.path),
                              run.cause));
  }
  auto told = *result;
  std::erase_if(told.outputs, [&](const auto& output) {
    return target.wants == protocol::DerivedPath::Wants::Outputs &&
           std::find(target.outputs.begin(), target.outputs.end(), output.first) ==
               target.outputs.end();
  });
  return told;
}

void lease_graph(const BuildGraph& graph, store::Lease& lease) {
  for (const auto& node : graph.nodes) {
    lease.add(node.path);
    lease.add(node.derivation.input_sources);
    for (const auto& [name, path] : node.outputs) {
      if (path) {
        lease.add(*path);
      }
    }
  }
}

} // namespace

aio::Task<std::vector<TargetResult>> build_targets(const SessionParts& parts,
                                                   const SessionCaller& caller,
                                                   store::Lease& lease,
                                                   std::vector<protocol::DerivedPath> targets,
                                                   GraphOrder order,
                                                   std::shared_ptr<HangUpWatch> client) {
  const auto strand = co_await asio::this_coro::executor;
  auto load = [&parts, &caller, &targets, &order] {
    auto graph =
        load_build_graph(parts.store, caller.account, targets, caller.self_references, order.check);
    if (caller.inside != nullptr) {
      expect_inside(parts.store, caller.account, *caller.inside, graph);
    }
    judge(parts.store, caller.account, graph);
    return graph;
  };
  auto graph = co_await parts.pool.run(std::move(load));
  lease_graph(graph, lease);
  auto run = std::make_shared<GraphRun>(
      parts, caller, std::move(order), std::move(client), std::move(graph));
  for (const auto& target : targets) {
    const auto place = run->graph.places.find(target.path);
    if (place != run->graph.places.end()) {
      run->asked_for[place->second] = true;
    }
  }
  run->begin();
  try {
    for (;;) {
      const auto seen = run->changed.count();
      start_ready(run, strand);
      if (run->running == 0 && (run->stop || run->ready.empty())) {
        break;
      }
      co_await run->changed.wait(seen);
    }
  } catch (...) {
    run->stop = true;
    throw;
  }
  if (run->failure) {
    std::rethrow_exception(run->failure);
  }
  std::vector<TargetResult> results;
  const auto behind_failure = behind_failures(*run);
  for (auto& target : targets) {
    auto result = result_of(*run, behind_failure, target);
    if (!result) {
      continue;
    }
    const auto place = run->graph.places.find(target.path);
    if (place != run->graph.places.end() && !model::is_success(result->status)) {
      result->error += std::exchange(run->explanations[place->second], std::string());
    }
    for (const auto& [name, output] : result->outputs) {
      lease.add(output.path);
    }
    results.push_back({std::move(target), std::move(*result)});
  }
  co_return results;
}

} // namespace nixbuild::server
