#include "unit/protocol/worker_samples.hpp"

#include <chrono>

namespace nixbuild::test {

namespace {

using namespace protocol;
using namespace protocol::worker;

bool by_path(const Peer& peer) {
  return peer.features.contains(std::string(kRealisationWithPath));
}

model::PathInfo sample_info() {
  return {.path = sample_path("p"),
          .deriver = sample_path("p.drv"),
          .nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of("x")),
          .nar_size = 123456789012,
          .references = {sample_path("a"), sample_path("p")},
          .registration_time = 1700000000,
          .ultimate = true,
          .signatures = {"k:AAAA"},
          .content_address = "text:sha256:x"};
}

model::BasicDerivation sample_derivation() {
  model::BasicDerivation out;
  out.outputs["out"].path = sample_path("a");
  out.outputs["dev"].path = sample_path("a-dev");
  out.input_sources = {sample_path("s"), sample_path("t")};
  out.platform = "x86_64-linux";
  out.builder = "/bin/sh";
  out.arguments = {"-c", "true"};
  out.environment = {{"a", "1"}, {"b", ""}};
  return out;
}

std::vector<DerivedPath> sample_targets(const Peer& peer) {
  using Wants = DerivedPath::Wants;
  std::vector<DerivedPath> out{{sample_path("a"), Wants::Path, {}},
                               {sample_path("a.drv"), Wants::AllOutputs, {}},
                               {sample_path("b.drv"), Wants::Outputs, {"out", "dev"}}};
  if (peer.version >= Version{1, 30}) {
    out.push_back({sample_path("c.drv"), Wants::Path, {}});
  }
  return out;
}

BuildReply sample_result(const Peer& peer) {
  BuildReply out;
  out.result.status = model::BuildStatus::Substituted;
  if (peer.version >= Version{1, 29}) {
    out.result.times_built = 2;
    out.result.non_deterministic = true;
    out.result.start_time = 1700000000;
    out.result.stop_time = 1700000001;
  }
  if (peer.version >= Version{1, 37}) {
    out.result.cpu_user = std::chrono::microseconds(1'500'000);
  }
  if (peer.version >= Version{1, 28}) {
    out.result.outputs = {{"out", {sample_path("a"), {"k:AAAA"}}}, {"dev", {sample_path("b"), {}}}};
    if (!by_path(peer)) {
      out.keys = {{"out", hash_of(HashAlgorithm::Sha256, bytes_of("k"))}, {"dev", Hash()}};
    }
  }
  return out;
}

BuildReply sample_failure(const Peer& peer) {
  BuildReply out;
  out.result.status = model::BuildStatus::TimedOut;
  out.result.error = "too \x1b[1mlong";
  if (peer.version >= Version{1, 37}) {
    out.result.cpu_system = std::chrono::microseconds(0);
  }
  return out;
}

DrvOutput sample_id(const Peer& peer) {
  if (by_path(peer)) {
    return {sample_path("a.drv"), "out"};
  }
  return {hash_of(HashAlgorithm::Sha256, bytes_of("id")), "out"};
}

model::Realisation sample_realisation(const Peer& peer) {
  const bool has_signatures = peer.version >= Version{1, 31};
  return {sample_path("a"),
          has_signatures ? std::vector<std::string>{"k:AAAA", "l:BBBB"}
                         : std::vector<std::string>{}};
}

void add_writes(std::vector<Exchange>& out, const Peer& peer) {
  using Method = model::ContentAddressMethod;
  const PathInfoReply added{sample_info()};
  const NumberReply done{1};
  if (peer.version < Version{1, 25}) {
    const PathReply old{sample_path("n")};
    out.push_back({AddToStore{"n", {Method::NixArchive, HashAlgorithm::Sha256}, {}, false}, {old}});
    out.push_back({AddToStore{"n", {Method::NixArchive, HashAlgorithm::Sha1}, {}, false}, {old}});
    out.push_back({AddToStore{"n", {Method::Flat, HashAlgorithm::Sha256}, {}, false}, {old}});
  } else {
    const model::StorePaths references{sample_path("a"), sample_path("b")};
    out.push_back(
        {AddToStore{"n", {Method::Text, HashAlgorithm::Sha256}, references, true}, {added}});
    out.push_back({AddToStore{"n", {Method::Flat, HashAlgorithm::Md5}, {}, false}, {added}});
    out.push_back(
        {AddToStore{"n", {Method::NixArchive, HashAlgorithm::Sha512}, {}, false}, {added}});
    out.push_back({AddToStore{"n", {Method::Git, HashAlgorithm::Sha1}, {}, false}, {added}});
  }
  out.push_back({AddTextToStore{"n", std::string("a\0b", 3), {sample_path("a")}},
                 {PathReply{sample_path("n")}}});
  out.push_back({AddToStoreNar{sample_info(), true, true}, {EmptyReply{}}});
  out.push_back({AddSignatures{sample_path("a"), {"k:AAAA"}}, {done}});
  out.push_back({AddIndirectRoot{"/links/result"}, {done}});
  if (peer.version >= Version{1, 32}) {
    out.push_back({AddMultipleToStore{true, true}, {EmptyReply{}}});
    out.push_back({AddBuildLog{sample_path("a.drv")}, {done}});
  }
  if (peer.version >= Version{1, 36}) {
    out.push_back({AddPermRoot{sample_path("a"), "/root/link"}, {TextReply{"/root/link"}}});
  }
}

void add_builds(std::vector<Exchange>& out, const Peer& peer) {
  out.push_back({BuildPaths{sample_targets(peer), BuildMode::Check}, {NumberReply{1}}});
  out.push_back({BuildDerivation{sample_path("a.drv"), sample_derivation(), BuildMode::Repair},
                 {sample_result(peer), sample_failure(peer)}});
  if (peer.version >= Version{1, 19}) {
    out.push_back(
        {QueryMissing{sample_targets(peer)},
         {MissingReply{{sample_path("a.drv")}, {sample_path("b")}, {sample_path("c")}, 5, 6}}});
  }
  if (peer.version >= Version{1, 34}) {
    BuildsReply builds;
    for (const auto& target : sample_targets(peer)) {
      builds.results.push_back({target, sample_result(peer)});
    }
    builds.results.push_back({sample_targets(peer)[0], sample_failure(peer)});
    out.push_back(
        {BuildPathsWithResults{sample_targets(peer), BuildMode::Normal}, {builds, BuildsReply{}}});
  }
}

void add_realisations(std::vector<Exchange>& out, const Peer& peer) {
  if (peer.version < Version{1, 27}) {
    return;
  }
  const auto id = sample_id(peer);
  out.push_back({RegisterDrvOutput{id, sample_realisation(peer)}, {EmptyReply{}}});
  out.push_back({QueryRealisation{id},
                 {RealisationsReply{id, {}}, RealisationsReply{id, {sample_realisation(peer)}}}});
}

void add_garbage(std::vector<Exchange>& out, const Peer& peer) {
  const GarbageReply reply{{"/nix/store/x", "/nix/store/y"}, std::uint64_t{1} << 40};
  out.push_back(
      {CollectGarbage{GcAction::ReturnDead, true, {}, false, true, ~std::uint64_t{0}}, {reply}});
  const bool scoped = peer.features.contains(std::string(kDeleteDeadSpecific));
  out.push_back(
      {CollectGarbage{
           GcAction::DeleteSpecific, false, {sample_path("a"), sample_path("b")}, scoped, false, 7},
       {reply}});
  if (scoped) {
    out.push_back({CollectGarbage{GcAction::DeleteDead, false, {sample_path("a")}, false, false, 7},
                   {reply}});
  }
}

void add_substitutes(std::vector<Exchange>& out, const Peer& peer) {
  const SubstitutableInfo info{sample_path("p.drv"), {sample_path("a")}, 5, 6};
  out.push_back({QuerySubstitutablePathInfo{sample_path("a")},
                 {SubstitutableReply{}, SubstitutableReply{info}}});
  const bool addresses = peer.version >= Version{1, 22};
  out.push_back(
      {QuerySubstitutablePathInfos{
           {{sample_path("a"), addresses ? "text:sha256:x" : ""}, {sample_path("b"), ""}}},
       {SubstitutablesReply{{{sample_path("a"), info}, {sample_path("b"), SubstitutableInfo{}}}}}});
  out.push_back({QuerySubstitutablePaths{{sample_path("b"), sample_path("a")}}, {PathsReply{}}});
}

void add_queries(std::vector<Exchange>& out, const Peer& peer) {
  const auto path = sample_path("a");
  const PathsReply paths{{sample_path("a"), sample_path("b")}};
  auto info = sample_info();
  info.path = path;
  out.push_back({IsValidPath{path}, {NumberReply{0}, NumberReply{1}}});
  out.push_back({QueryReferrers{path}, {paths}});
  out.push_back({EnsurePath{path}, {NumberReply{1}}});
  out.push_back({AddTempRoot{path}, {NumberReply{1}}});
  out.push_back({SyncWithGC{}, {NumberReply{1}}});
  out.push_back({FindRoots{}, {RootsReply{{{"/l/1", path}, {"/l/0", sample_path("b")}}}}});
  out.push_back(
      {QueryDeriver{path}, {OptionalPathReply{}, OptionalPathReply{sample_path("d.drv")}}});
  out.push_back({QueryDerivationOutputs{path}, {paths}});
  out.push_back({QueryAllValidPaths{}, {paths}});
  out.push_back({QueryPathInfo{path}, {QueryPathInfoReply{}, QueryPathInfoReply{info}}});
  out.push_back({QueryDerivationOutputNames{path}, {TextsReply{{"dev", "out"}}}});
  out.push_back({QueryPathFromHashPart{"7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4"}, {OptionalPathReply{}}});
  out.push_back(
      {QueryValidPaths{{sample_path("b"), path}, peer.version >= Version{1, 27}}, {paths}});
  out.push_back({QueryValidDerivers{path}, {PathsReply{}}});
  out.push_back({NarFromPath{path}, {EmptyReply{}}});
  if (peer.version >= Version{1, 22}) {
    out.push_back({QueryDerivationOutputMap{path},
                   {OutputMapReply{{{"out", sample_path("b")}, {"dev", std::nullopt}}}}});
  }
}

void add_maintenance(std::vector<Exchange>& out) {
  out.push_back({OptimiseStore{}, {NumberReply{1}}});
  out.push_back({VerifyStore{true, true}, {NumberReply{0}}});
  out.push_back({SetOptions{true,
                            true,
                            true,
                            7,
                            16,
                            std::chrono::seconds(0xffffffff),
                            5,
                            4,
                            true,
                            {{"timeout", "9"}, {"x", ""}}},
                 {EmptyReply{}}});
}

} // namespace

model::StorePath sample_path(const std::string& name) {
  return model::StorePath::parse("7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4-" + name);
}

std::vector<Exchange> sample_exchanges(const Peer& peer) {
  std::vector<Exchange> out;
  add_queries(out, peer);
  add_writes(out, peer);
  add_builds(out, peer);
  add_realisations(out, peer);
  add_garbage(out, peer);
  add_substitutes(out, peer);
  add_maintenance(out);
  return out;
}

std::vector<LogMessage> sample_log(const Peer& peer) {
  const std::vector<LogField> fields{
      std::uint64_t{1} << 40, std::string("text"), std::uint64_t{0}, std::string()};
  std::vector<LogMessage> out{LogText{"a line\n"}, DataWanted{65536}, DataGiven{"bytes"}, Last{}};
  if (peer.version >= Version{1, 26}) {
    out.emplace_back(Failure{Level::Warn, "it failed", {"while", "trying"}, 1, "UsageError"});
  } else {
    out.emplace_back(Failure{Level::Error, "it failed", {}, 101, "Error"});
  }
  if (peer.version >= Version{1, 20}) {
    out.emplace_back(
        StartActivity{7, Level::Talkative, ActivityType::Build, "building", fields, 3});
    out.emplace_back(StartActivity{8, Level::Vomit, static_cast<ActivityType>(999), "", {}, 0});
    out.emplace_back(ActivityResult{7, ResultType::BuildLogLine, {std::string("line")}});
    out.emplace_back(ActivityResult{7, static_cast<ResultType>(999), fields});
    out.emplace_back(StopActivity{7});
  }
  return out;
}

std::vector<Peer> all_peers() {
  std::vector<Peer> out;
  for (unsigned minor = kOldestVersion.minor_number(); minor <= kNewestVersion.minor_number();
       ++minor) {
    out.push_back({Version(1, minor), {}});
  }
  out.push_back({kNewestVersion, {std::string(kRealisationWithPath)}});
  out.push_back({kNewestVersion, {std::string(kDeleteDeadSpecific)}});
  out.push_back({kNewestVersion, known_features()});
  return out;
}

} // namespace nixbuild::test
