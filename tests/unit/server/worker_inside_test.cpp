// Sessions of a builder's clients: they see the builder's inputs and what they add, and nothing
// else.

#include "worker_client.hpp"

#include <nixbuild/sandbox/admission.hpp>

#include <catch2/catch.hpp>

namespace worker_inside_test {

using namespace nixbuild;
using namespace nixbuild::tests;

namespace {

namespace admission = sandbox::admission;

/// The end of a machine that takes admissions, on a thread of its own.
class PaperMachine {
public:
  explicit PaperMachine(UniqueFd socket) : socket_(std::move(socket)) {
    thread_ = std::jthread([this] { serve(); });
  }

  ~PaperMachine() { ::shutdown(socket_.get(), SHUT_RDWR); }

  std::vector<std::string> names;
  std::vector<std::string> archives;
  std::string refusal; ///< of the next path

private:
  std::string take(std::size_t size) {
    std::string bytes(size, '\0');
    std::size_t have = 0;
    while (have < size) {
      const auto got = ::read(socket_.get(), bytes.data() + have, size - have);
      if (got <= 0) {
        return {};
      }
      have += static_cast<std::size_t>(got);
    }
    return bytes;
  }

  std::size_t length() {
    const auto four = take(4);
    return four.empty() ? 0 : admission::read_length(bytes_of(four), admission::kMaxPiece);
  }

  void serve() {
    while (const auto size = length()) {
      names.push_back(take(size));
      std::string archive;
      while (const auto piece = length()) {
        archive += take(piece);
      }
      archives.push_back(archive);
      const auto answer = admission::counted(refusal);
      if (::write(socket_.get(), answer.data(), answer.size()) < 0) {
        return;
      }
    }
  }

  UniqueFd socket_;
  std::jthread thread_;
};

/// A server with a path that is an input, one that is not, and a session from inside.
struct Inside {
  PaperServer server{good_build};
  std::unique_ptr<PaperMachine> machine;
  model::PathInfo input = put("input", {});
  model::PathInfo secret = put("secret", {});
  std::unique_ptr<Client> client;

  Inside() {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    machine = std::make_unique<PaperMachine>(UniqueFd(ends[0]));
    const build::BuilderStore::Parts parts{server.store, server.pool, server.account};
    server.inside = std::make_shared<build::BuilderStore>(
        parts,
        model::StorePaths{input.path},
        std::vector<model::StorePath>{path_named("outer.drv")},
        std::make_unique<aio::ByteStream>(server.io.get_executor(), UniqueFd(ends[1])));
    client = std::make_unique<Client>(server);
    CHECK(client->hello().trust == worker::Trust::NotTrusted);
  }

  ~Inside() { server.inside.reset(); } // its stream waits on the server's loop

  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

  model::PathInfo put(std::string_view name, const model::StorePaths& references) {
    const auto nar = nar_of_file(name);
    auto info = info_of(std::string(name), nar);
    info.references = references;
    info.deriver = path_named("some.drv");
    info.signatures = {"key:sig"};
    auto import = server.store.begin_import(server.account,
                                            {.path = info.path,
                                             .deriver = info.deriver,
                                             .nar_hash = info.nar_hash,
                                             .nar_size = info.nar_size,
                                             .references = info.references,
                                             .signatures = info.signatures,
                                             .content_address = {},
                                             .scan_for = {}});
    import.feed(bytes_of(nar));
    const auto sealed = import.seal();
    server.store.commit(server.account, {&sealed, 1});
    return sealed;
  }

  std::string refusal(const worker::Request& request, std::string_view payload = {}) {
    return client->ask(request, payload).failure.value_or("done");
  }
};

} // namespace

TEST_CASE("worker inside: of what is no input nothing is told", "[server]") {
  Inside world;
  auto& client = *world.client;
  const auto& input = world.input.path;
  const auto& secret = world.secret.path;
  CHECK(reply_of<worker::NumberReply>(client.ask(worker::IsValidPath{input})).value == 1);
  CHECK(reply_of<worker::NumberReply>(client.ask(worker::IsValidPath{secret})).value == 0);
  const worker::QueryValidPaths both{{input, secret}, false};
  CHECK(reply_of<worker::PathsReply>(client.ask(both)).paths == model::StorePaths{input});
  CHECK(reply_of<worker::PathsReply>(client.ask(worker::QueryAllValidPaths{})).paths ==
        model::StorePaths{input});
  CHECK_FALSE(reply_of<worker::QueryPathInfoReply>(client.ask(worker::QueryPathInfo{secret})).info);
  const auto told = reply_of<worker::QueryPathInfoReply>(client.ask(worker::QueryPathInfo{input}));
  REQUIRE(told.info);
  CHECK(told.info->nar_hash == world.input.nar_hash);
  CHECK_FALSE(told.info->deriver);
  CHECK(told.info->signatures.empty());
  const worker::QueryPathFromHashPart by_hash{std::string(secret.hash_part())};
  CHECK_FALSE(reply_of<worker::OptionalPathReply>(client.ask(by_hash)).path);
  for (const worker::Request& request :
       std::initializer_list<worker::Request>{worker::NarFromPath{secret},
                                              worker::EnsurePath{secret},
                                              worker::QueryDeriver{secret},
                                              worker::QueryDerivationOutputMap{secret},
                                              worker::AddTextToStore{"t", "text", {secret}}}) {
    CHECK(world.refusal(request).find("secret' is not valid") != std::string::npos);
  }
  reply_of<worker::EmptyReply>(client.ask(worker::NarFromPath{input}));
  client.raw(static_cast<std::size_t>(world.input.nar_size));
  CHECK(world.machine->names.empty());
  CHECK(client.end() == 0);
}

TEST_CASE("worker inside: what is added comes into the machine, and is an input from then on",
          "[server]") {
  Inside world;
  auto& client = *world.client;
  const worker::AddTextToStore text{"t", "text", {world.input.path}};
  const auto path = reply_of<worker::PathReply>(client.ask(text)).path;
  REQUIRE(world.machine->names == std::vector<std::string>{path.base_name()});
  CHECK(world.machine->archives == std::vector<std::string>{nar_of_file("text")});
  CHECK(world.server.inside->added() == model::StorePaths{path});
  // Once is enough, and it may be referred to now.
  reply_of<worker::PathReply>(client.ask(text));
  const worker::AddTextToStore behind{"behind", "more", {path}};
  reply_of<worker::PathReply>(client.ask(behind));
  CHECK(world.machine->names.size() == 2);
  world.machine->refusal = "no room";
  const worker::AddTextToStore third{"third", "more", {}};
  CHECK(world.refusal(third).find("does not take") != std::string::npos);
  CHECK(world.refusal(third).find("no room") != std::string::npos);
  world.machine->refusal.clear();
  reply_of<worker::PathReply>(client.ask(third));
  CHECK(client.end() == 0);
}

TEST_CASE("worker inside: the name of a path does not get its contents", "[server][reject]") {
  Inside world;
  auto& client = *world.client;
  // Somebody else's contents under their address, which the builder has heard of.
  const auto nar = nar_of_file("private words");
  const model::ContentAddress address{Method::Flat,
                                      hash_of(HashAlgorithm::Sha256, bytes_of("private words"))};
  auto info = info_of("words", nar);
  info.path = model::make_content_addressed_path(model::StoreDir(), "words", address, {}, false);
  info.content_address = model::print(address);
  world.server.inside.reset();
  Client outside(world.server);
  outside.hello();
  reply_of<worker::EmptyReply>(outside.ask(worker::AddToStoreNar{info}, nar));
  CHECK(outside.end() == 0);

  auto guessed = nar;
  guessed[guessed.find("private")] = 'q';
  CHECK(world.refusal(worker::AddToStoreNar{info}, guessed).find("is not valid") !=
        std::string::npos);
  CHECK(reply_of<worker::NumberReply>(client.ask(worker::IsValidPath{info.path})).value == 0);
  CHECK(world.machine->names.empty());
  reply_of<worker::EmptyReply>(client.ask(worker::AddToStoreNar{info}, nar));
  CHECK(world.machine->names == std::vector<std::string>{info.path.base_name()});

  auto named = info_of("by-name", nar);
  CHECK(world.refusal(worker::AddToStoreNar{named}, nar).find("named after its contents") !=
        std::string::npos);
  CHECK(client.end() == 0);
}

TEST_CASE("worker inside: a derivation that a builder has written gets it nothing else",
          "[server][reject]") {
  Inside world;
  auto& client = *world.client;
  const auto build = [&](const model::Derivation& derivation, const model::StorePaths& references) {
    auto text = text_of("evil", derivation);
    text.references = references;
    const auto added = client.ask(text);
    if (added.failure) {
      return *added.failure;
    }
    const auto path = reply_of<worker::PathReply>(added).path;
    const protocol::DerivedPath target{path, protocol::DerivedPath::Wants::AllOutputs, {}};
    const auto said = world.refusal(worker::QueryMissing{{target}});
    CHECK(world.refusal(worker::BuildPaths{{target}}) == said);
    return said;
  };
  auto evil = derivation_of("evil", {});
  complete("evil", evil);
  CHECK(build(evil, {}) == "done");
  // An input that the file does not refer to.
  evil.input_sources = {world.secret.path};
  complete("evil", evil);
  CHECK(build(evil, {}).find("secret' is not valid") != std::string::npos);
  // An output that is somebody's already.
  evil.input_sources = {};
  complete("evil", evil);
  evil.outputs["out"].path = world.secret.path;
  evil.environment["out"] = model::StoreDir().print(world.secret.path);
  CHECK(build(evil, {}).find("should be") != std::string::npos);
  // A derivation that the builder does not know: whether it is there makes no difference.
  world.server.inside.reset();
  Client outside(world.server);
  outside.hello();
  const auto hidden = add_derivation(outside, "hidden", {});
  CHECK(outside.end() == 0);
  auto curious = derivation_of("evil", {hidden});
  curious.outputs["out"].path = path_named("guess");
  const auto known = client.ask([&] {
    auto text = text_of("evil", curious);
    text.references.clear();
    return text;
  }());
  CHECK_FALSE(known.failure);
  for (const auto& name : world.machine->names) {
    CHECK(name.find("secret") == std::string::npos);
  }
  CHECK(client.end() == 0);
}

TEST_CASE("worker inside: what a builder may not do", "[server][reject]") {
  Inside world;
  auto& client = *world.client;
  const auto& input = world.input.path;
  for (const worker::Request& request : std::initializer_list<worker::Request>{
           worker::VerifyStore{false, false},
           worker::AddSignatures{input, {"key:sig"}},
           worker::BuildPaths{{}, worker::BuildMode::Check},
           worker::BuildDerivation{path_named("x.drv"), {}, worker::BuildMode::Normal}}) {
    CHECK(world.refusal(request).find("is not offered to builders") != std::string::npos);
  }
  worker::CollectGarbage collect;
  collect.whole_store = true;
  CHECK(reply_of<worker::GarbageReply>(client.ask(collect)).paths.empty());
  CHECK(world.server.db->path_info(world.server.account, world.secret.path));
  CHECK(reply_of<worker::NumberReply>(client.ask(worker::AddIndirectRoot{"/build/result"})).value ==
        1);
  CHECK(client.end() == 0);
}

} // namespace worker_inside_test
