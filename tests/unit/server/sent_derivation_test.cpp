// Derivations that clients send to be built, and those that they put into the store: whether their
// outputs are theirs.

#include "server/sent_derivation.hpp"
#include "worker_client.hpp"

#include <nixbuild/model/content_address.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <catch2/catch.hpp>

#include <variant>

namespace sent_derivation_test {

using namespace nixbuild;
using namespace nixbuild::tests;

namespace {

const model::StoreDir kDir;

struct Desk {
  PaperServer server{good_build};
  Client client{server};
  model::StorePath bottom;
  model::StorePath top;

  Desk() : bottom(prepare()), top(add_derivation(client, "top", {bottom})) {}

  ~Desk() { client.end(); }

  model::StorePath prepare() {
    client.hello();
    return add_derivation(client, "bottom", {});
  }

  /// As a build hook sends it.
  [[nodiscard]] build::BuildRequest sent(const model::StorePath& path,
                                         const model::StorePaths& sources = {}) const {
    model::BasicDerivation derivation = added_derivations().at(path);
    derivation.input_sources = sources;
    return {server.account, path, std::move(derivation), {}};
  }

  std::string judged(const build::BuildRequest& request) {
    try {
      return server::sent_outputs_follow(server.store, request) ? "proven" : "a word";
    } catch (const Error& error) {
      return error.message();
    }
  }
};

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("sent derivation: what it says itself is computed", "[server][reject]") {
  Desk desk;
  CHECK(desk.judged(desk.sent(desk.bottom)) == "proven");
  // The same where the account has no such file.
  auto whole = derivation_of("whole", {});
  complete("whole", whole);
  const auto path = model::derivation_path(kDir, "whole", whole);
  CHECK(desk.judged({desk.server.account, path, whole, {}}) == "proven");
  // It is whole, and names something else.
  auto forged = whole;
  forged.outputs["out"].path = path_named("other");
  const auto forged_path = model::derivation_path(kDir, "whole", forged);
  CHECK(has(desk.judged({desk.server.account, forged_path, forged, {}}),
            "should be '" + kDir.print(*whole.outputs["out"].path)));
  // Nobody knows what is behind it.
  CHECK(desk.judged({desk.server.account, path_named("unknown.drv"), forged, {}}) == "a word");

  model::BasicDerivation fixed;
  auto& out = fixed.outputs["out"];
  out.method_algorithm = "sha256";
  out.hash = std::string(64, 'a');
  out.path = path_named("f"); // until its hash is read
  out.path = model::make_content_addressed_path(kDir, "f", out.fixed_address(), {}, false);
  CHECK(desk.judged({desk.server.account, path_named("f.drv"), fixed, {}}) == "proven");
  out.path = path_named("other");
  CHECK(has(desk.judged({desk.server.account, path_named("f.drv"), fixed, {}}), "should be"));
}

TEST_CASE("sent derivation: the file of its name says what it is", "[server][reject]") {
  Desk desk;
  const auto input = output_of(desk.bottom);
  CHECK(desk.judged(desk.sent(desk.top, {input})) == "a word"); // the input is not there
  CHECK(succeeded(desk.client.ask(worker::BuildPaths{{all_of(desk.bottom)}})));
  const auto honest = desk.sent(desk.top, {input});
  CHECK(desk.judged(honest) == "proven");

  auto other = honest;
  other.derivation.outputs["out"].path = path_named("other");
  CHECK(has(desk.judged(other), "should be '" + kDir.print(output_of(desk.top))));
  other = honest;
  other.derivation.builder = "/bin/evil";
  CHECK(has(desk.judged(other), "has another builder or other arguments than the file"));
  other = honest;
  other.derivation.environment["name"] = "evil";
  CHECK(has(desk.judged(other), "has another environment"));
  other = honest;
  other.derivation.platform = "riscv64-linux";
  CHECK(has(desk.judged(other), "has another platform"));
  other = honest;
  other.derivation.environment["__json"] = "{}";
  CHECK(desk.judged(other) == "a word");
  // Inputs that are not those of the file.
  CHECK(desk.judged(desk.sent(desk.top)) == "a word");
  CHECK(desk.judged(desk.sent(desk.top, {input, path_named("more")})) == "a word");
}

TEST_CASE("sent derivation: a forged one is refused over the wire, before anything is built",
          "[server][reject]") {
  Desk desk;
  auto request = build_of("forged");
  auto& out = request.derivation.outputs["out"];
  out.method_algorithm = "sha256";
  out.hash = std::string(64, 'a');
  const auto result = reply_of<worker::BuildReply>(desk.client.ask(request)).result;
  CHECK(result.status == model::BuildStatus::InputRejected);
  CHECK(has(result.error, "has incorrect output path"));
  CHECK(desk.server.executor.runs().empty());
  CHECK_FALSE(desk.server.db->path_info(desk.server.account, path_named("forged")));
}

TEST_CASE("sent derivation: a file that was let in unseen is looked at before it is built",
          "[server][reject]") {
  Desk desk;
  auto forged = derivation_of("top", {desk.bottom});
  complete("top", forged);
  forged.outputs["out"].path = path_named("other");
  const auto nar = tests::nar_of_file(model::print_derivation(kDir, forged));
  const auto path = model::derivation_path(kDir, "top", forged);
  auto import = desk.server.store.begin_import(
      desk.server.account, {path, {}, {}, {}, {desk.bottom}, 0, false, {}, {}, {}});
  REQUIRE(import.feed(bytes_of(nar)) == nar.size());
  const auto info = import.seal();
  desk.server.db->register_paths(desk.server.account, {&info, 1});
  const auto failure = desk.client.ask(worker::BuildPaths{{all_of(path)}}).failure;
  REQUIRE(failure);
  CHECK(has(*failure, "has incorrect output path"));
  CHECK(desk.server.executor.runs().empty());
}

TEST_CASE("sent derivation: what is made from something impure is impure or fixed", "[server]") {
  Desk desk;
  const auto add = [&](std::string_view name, const model::Derivation& derivation) {
    return reply_of<worker::PathReply>(desk.client.ask(text_of(name, derivation))).path;
  };
  auto impure = derivation_of("moment", {});
  impure.outputs["out"] = {{}, "r:sha256", "impure"};
  const auto moment = add("moment", impure);
  const auto refusal = [&](const model::StorePath& path) {
    return desk.client.ask(worker::BuildPaths{{all_of(path)}}).failure.value_or("none");
  };
  auto pure = derivation_of("pure", {moment});
  const auto deferred = add("pure", pure);
  CHECK(refusal(deferred) == "pure derivation '" + kDir.print(deferred) +
                                 "' depends on impure derivation '" + kDir.print(moment) + "'");
  pure.outputs["out"].method_algorithm = "r:sha256";
  CHECK(has(refusal(add("floating", pure)), "depends on impure derivation"));
  CHECK(desk.server.executor.runs().empty());

  auto behind = derivation_of("behind", {moment});
  behind.outputs["out"] = impure.outputs["out"];
  CHECK(refusal(add("behind", behind)) == "none");
  auto fixed = derivation_of("fixed", {moment});
  auto& out = fixed.outputs["out"];
  out.method_algorithm = "r:sha256";
  out.hash = model::hash_hex(hash_of(HashAlgorithm::Sha256, bytes_of(nar_of_file("result"))));
  out.path = moment; // until its hash is read
  out.path = model::make_content_addressed_path(kDir, "fixed", out.fixed_address(), {}, false);
  CHECK(refusal(add("fixed", fixed)) == "none");
}

TEST_CASE("sent derivation: outputs whose paths follow are found by their hash", "[server]") {
  Desk desk;
  const auto name_of = [](const model::StorePath& path) {
    const auto& derivation = added_derivations().at(path);
    return model::hash_modulo(kDir, derivation, true, hash_of_added).outputs.at("out");
  };
  const auto ask = [](Client& client, const std::variant<Hash, model::StorePath>& derivation) {
    const worker::QueryRealisation question{{derivation, "out"}};
    return reply_of<worker::RealisationsReply>(client.ask(question)).realisations;
  };
  Client other(desk.server, protocol::Version(1, 37)); // newer ones ask by path
  other.hello();
  CHECK(ask(desk.client, desk.top).empty());
  CHECK(ask(other, name_of(desk.top)).empty());
  CHECK(succeeded(desk.client.ask(worker::BuildPaths{{all_of(desk.top)}})));
  // By everybody, once it is built.
  REQUIRE(ask(desk.client, desk.top).size() == 1);
  CHECK(ask(desk.client, desk.top).front().path == output_of(desk.top));
  const auto found = ask(other, name_of(desk.top));
  REQUIRE(found.size() == 1);
  CHECK(found.front().path == output_of(desk.top));
  // What came ready is found by who has asked for it.
  const auto ready = add_derivation(other, "ready", {});
  const auto nar = tests::nar_of_file("ready");
  auto info = info_of("ready", nar);
  info.path = output_of(ready);
  reply_of<worker::EmptyReply>(other.ask(worker::AddToStoreNar{info}, nar));
  CHECK(ask(other, name_of(ready)).empty());
  CHECK(succeeded(other.ask(worker::BuildPaths{{all_of(ready)}})));
  CHECK(desk.server.executor.runs().size() == 2);
  REQUIRE(ask(other, name_of(ready)).size() == 1);
  CHECK(ask(other, name_of(ready)).front().path == output_of(ready));
  CHECK(other.end() == 0);
}

} // namespace sent_derivation_test
