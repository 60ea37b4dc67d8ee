#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/model/hash_text.hpp>
#include <nixbuild/protocol/serve.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace serve_reply_test {

using namespace nixbuild;
using namespace nixbuild::protocol;
using namespace nixbuild::protocol::serve;

namespace {

const model::StoreDir kDir;
const std::string kHash = "7fkyl4dcd4wp3va6qyfxz7c7gac4dwp4";

model::StorePath path(const std::string& name) {
  return model::StorePath::parse(kHash + "-" + name);
}

std::string word(std::uint64_t value) {
  std::string out;
  write_number(out, value);
  return out;
}

std::string string(const std::string& text) {
  return word(text.size()) + text + std::string((8 - text.size() % 8) % 8, '\0');
}

ReplyReader reader_at(Version version, const std::string& bytes) {
  ReplyReader reader(kDir);
  std::string hello;
  write_hello(hello, version);
  reader.feed(bytes_of(hello));
  CHECK(reader.read_hello() == version);
  reader.feed(bytes_of(bytes));
  return reader;
}

model::BuildResult sample_result(Version version) {
  model::BuildResult out;
  out.status = model::BuildStatus::Built;
  if (version >= Version{2, 3}) {
    out.times_built = 1;
    out.non_deterministic = true;
    out.start_time = 1700000000;
    out.stop_time = 1700000009;
  }
  if (version >= Version{2, 6}) {
    out.outputs.emplace("out", model::Realisation{path("a"), {"k:A/+=", "l:\"\\"}});
    out.outputs.emplace("dev", model::Realisation{path("a-dev"), {}});
  }
  return out;
}

/// Body of a 2.7 result with this one entry.
std::string result_with(const std::string& id, const std::string& json) {
  return word(0) + string("") + word(0) + word(0) + word(0) + word(0) + word(1) + string(id) +
         string(json);
}

template <class Read>
std::string code_of(const std::string& bytes, Version version, Read read) {
  auto reader = reader_at(version, bytes);
  try {
    static_cast<void>(read(reader));
  } catch (const Error& error) {
    CHECK(error.reaction() == Reaction::Reject);
    return error.code();
  }
  return {};
}

std::string result_code(const std::string& bytes, Version version = Version{2, 7}) {
  return code_of(bytes, version, [](ReplyReader& reader) { return reader.read_build_result(); });
}

} // namespace

TEST_CASE("serve replies: paths, numbers", "[protocol][roundtrip]") {
  std::string bytes;
  const model::StorePaths paths{path("a"), path("b")};
  write_paths(bytes, kDir, paths);
  write_paths(bytes, kDir, {});
  write_number(bytes, 1);
  auto reader = reader_at(Version{2, 7}, bytes);
  CHECK(reader.read_paths() == paths);
  CHECK(reader.read_paths() == model::StorePaths{});
  CHECK(reader.read_number() == std::uint64_t{1});
  CHECK(reader.at_boundary());
  CHECK_FALSE(reader.read_number());
}

TEST_CASE("serve replies: path infos in every version", "[protocol][roundtrip]") {
  for (unsigned minor = 1; minor <= 8; ++minor) {
    const Version version(2, minor);
    PathInfoReply reply{{.path = path("a"),
                         .deriver = path("a.drv"),
                         .nar_hash = {},
                         .nar_size = 120,
                         .references = {path("a"), path("b")},
                         .registration_time = 0,
                         .ultimate = false,
                         .signatures = {},
                         .content_address = {}},
                        77};
    if (version >= Version{2, 4}) {
      reply.info.nar_hash = hash_of(HashAlgorithm::Sha256, bytes_of("x"));
      reply.info.signatures = {"k:AAAA", "l:BBBB"};
      reply.info.content_address = "fixed:r:sha256:x";
    }
    std::string bytes;
    write_path_info(bytes, kDir, version, reply);
    reply.info.deriver.reset();
    write_path_info(bytes, kDir, version, reply);
    write_end_of_infos(bytes);
    auto reader = reader_at(version, bytes);
    const auto first = reader.read_path_info();
    REQUIRE((first && *first));
    CHECK((*first)->info.deriver == path("a.drv"));
    const auto second = reader.read_path_info();
    REQUIRE((second && *second));
    CHECK((**second == reply));
    const auto end = reader.read_path_info();
    REQUIRE(end);
    CHECK_FALSE(*end);
    CHECK(reader.at_boundary());
  }
}

TEST_CASE("serve replies: build results in every version", "[protocol][roundtrip]") {
  const auto hash = hash_of(HashAlgorithm::Sha256, bytes_of("x"));
  const std::map<std::string, Hash> keys{{"out", hash}, {"dev", hash}};
  for (unsigned minor = 1; minor <= 8; ++minor) {
    const Version version(2, minor);
    const auto result = sample_result(version);
    std::string bytes;
    write_build_result(bytes, kDir, version, result, keys);
    auto reader = reader_at(version, bytes);
    std::map<std::string, Hash> found;
    const auto back = reader.read_build_result(&found);
    REQUIRE(back);
    CHECK((*back == result));
    CHECK(reader.at_boundary());
    CHECK(found.size() == (minor == 6 || minor == 7 ? 2 : 0));
    for (const auto& [name, value] : found) {
      CHECK(value == keys.at(name));
    }
  }
}

TEST_CASE("serve replies: the JSON of an output", "[protocol][golden]") {
  const Version version(2, 7);
  model::BuildResult result;
  result.status = model::BuildStatus::Built;
  result.outputs.emplace("out", model::Realisation{path("a"), {"k:A/+="}});
  const std::string id = "sha256:" + std::string(64, '0') + "!out";
  std::string bytes;
  write_build_result(bytes, kDir, version, result, {});
  CHECK(bytes == result_with(id,
                             R"({"dependentRealisations":{},"id":")" + id + R"(","outPath":")" +
                                 kHash + R"(-a","signatures":["k:A/+="]})"));
}

TEST_CASE("serve replies: other members of the JSON do not matter", "[protocol]") {
  const std::string id = "sha256:" + std::string(64, '0') + "!out";
  const auto json = [&](const std::string& rest) {
    return R"({"outPath":")" + kHash + R"(-a","id":")" + id + "\"" + rest + "}";
  };
  CHECK(result_code(result_with(id, json(""))).empty());
  CHECK(
      result_code(result_with(id, json(R"(,"x":[{}],"dependentRealisations":{"a":"b"})"))).empty());
}

TEST_CASE("serve replies: bad build results are refused", "[protocol][reject]") {
  const std::string id = "sha256:" + std::string(64, '0') + "!out";
  const auto json = [&](const std::string& out_path, const std::string& own_id) {
    return R"({"outPath":")" + out_path + R"(","id":")" + own_id + R"("})";
  };
  CHECK(result_code(result_with(id, "{")) == "wire.realisation");
  CHECK(result_code(result_with(id, "[]")) == "wire.realisation");
  CHECK(result_code(result_with(id, "{}")) == "wire.realisation");
  CHECK(result_code(result_with(id, std::string(100, '['))) == "wire.realisation");
  CHECK(result_code(result_with(id, json(kHash + "-a", "other"))) == "wire.realisation");
  CHECK(result_code(result_with("sha256:00!out", json(kHash + "-a", id))) == "wire.realisation");
  CHECK(result_code(result_with(id + "/", json(kHash + "-a", id))) == "wire.realisation");
  CHECK(result_code(result_with("sha256:" + std::string(64, 'x') + "!out", "{}")) ==
        "encoding.hex");
  CHECK(result_code(result_with(id, json("/nix/store/" + kHash + "-a", id))) == "store-path.hash");
  const auto twice = word(0) + string("") + word(0) + word(0) + word(0) + word(0) + word(2) +
                     string("out") + string("/nix/store/" + kHash + "-a") + word(0) +
                     string("out") + string("/nix/store/" + kHash + "-a") + word(0);
  CHECK(result_code(twice, Version{2, 8}) == "wire.realisation");
  CHECK(result_code(word(15) + string(""), Version{2, 2}) == "wire.status");
  CHECK(result_code(word(14) + string(""), Version{2, 2}).empty());
}

TEST_CASE("serve replies: BuildPaths says 0, or a status and a message", "[protocol]") {
  std::string bytes;
  write_build_paths_reply(bytes, model::BuildStatus::AlreadyValid, "unused");
  write_build_paths_reply(bytes, model::BuildStatus::TimedOut, "too slow");
  CHECK(bytes == word(0) + word(8) + string("too slow"));
  auto reader = reader_at(Version{2, 7}, bytes);
  using Reply = std::pair<std::uint64_t, std::string>;
  CHECK((reader.read_build_paths_reply() == Reply(0, "")));
  CHECK((reader.read_build_paths_reply() == Reply(8, "too slow")));
  CHECK(reader.at_boundary());
}

TEST_CASE("serve replies: the server's hello", "[protocol]") {
  ReplyReader reader(kDir);
  CHECK_FALSE(reader.read_hello());
  CHECK(reader.at_boundary());
  std::string hello;
  write_hello(hello, Version{2, 8});
  reader.feed(bytes_of(hello));
  CHECK(reader.read_hello(Version{2, 5}) == Version{2, 5});
}

TEST_CASE("serve replies: a shell's greeting is no server", "[protocol][reject]") {
  ReplyReader reader(kDir);
  reader.feed(bytes_of("Welcome to Debian"));
  CHECK_THROWS_WITH(reader.read_hello(), Catch::Contains("does not speak the serve protocol"));
}

TEST_CASE("serve replies: reading a reply before the hello is the caller's fault",
          "[protocol][reject]") {
  ReplyReader reader(kDir);
  try {
    static_cast<void>(reader.read_number());
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "serve.hello");
    CHECK(error.reaction() == Reaction::Internal);
  }
}

} // namespace serve_reply_test
