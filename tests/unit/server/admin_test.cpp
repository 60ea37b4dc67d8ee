#include "admin_rig.hpp"
#include "server/admin_commands.hpp"
#include "server/admin_text.hpp"
#include "server/http_tokens.hpp"
#include "support/scratch_folder.hpp"

#include <nixbuild/nar/writer.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <sys/socket.h>

#include <chrono>
#include <string>
#include <thread>

namespace admin_test {

using namespace nixbuild;
using test::Fixture;
namespace json = boost::json;

namespace {

/// `bin/hello` (executable, one small, one large file) and a link.
std::string nar_of_tree(const std::string& large) {
  std::string out;
  StringSink sink(out);
  nar::Writer writer(sink);
  const auto file = [&](bool executable, std::string_view contents) {
    writer.regular(executable, contents.size());
    writer.contents(bytes_of(contents));
    writer.regular_end();
  };
  writer.directory();
  writer.entry("bin");
  writer.directory();
  writer.entry("hello");
  file(true, "#!/bin/sh\n");
  writer.directory_end();
  writer.entry("large");
  file(false, large);
  writer.entry("link");
  writer.symlink("bin/hello");
  writer.directory_end();
  writer.finish();
  return out;
}

std::string printed(const Fixture& fixture, const model::PathInfo& info) {
  return fixture.store.dir().print(info.path);
}

} // namespace

TEST_CASE("admin: a shell over SSH runs one command a line", "[server]") {
  Fixture fixture;
  const auto done = fixture.feed("account list\n\n  nixbuild 'settings' show max-cpu\nno-such\n"
                                 "help gc\nexit\nbuilds\n",
                                 {"shell"},
                                 true);
  CHECK(done.out.find("default") != std::string::npos);
  CHECK(done.out.find("max-cpu") != std::string::npos);
  CHECK(done.out.find("Usage: nixbuild gc") != std::string::npos);
  CHECK(done.err.find("no-such") != std::string::npos);
  CHECK(done.status == 0); // that of the last command
  CHECK(fixture.feed("no-such", {"shell"}, true).status == 2);
  CHECK(fixture.feed("", {"shell"}, true).status == 0);
  fixture.db->set_account_setting(fixture.account, "default-permissions", "account:write");
  CHECK(fixture.feed("key add -\nssh-ed25519 AAAA\n", {"shell"}, true)
            .err.find("for a session of its own") != std::string::npos);
  // A shell in a shell is a command that does not exist.
  CHECK(fixture.feed("shell\n", {"shell"}, true).status == 2);
  CHECK(fixture.feed(std::string(70'000, 'x'), {"shell"}, true).err.find("more than 65536 bytes") !=
        std::string::npos);
}

TEST_CASE("admin: the api over SSH answers and complains in JSON", "[server]") {
  Fixture fixture;
  CHECK(fixture.run({"api", "account", "list"}, true).json().is_array());
  CHECK(fixture.run({"api", "builds", "--json"}, true).json().is_array());
  const auto refused = fixture.run({"api", "builds", "77"}, true);
  CHECK(refused.status == 4);
  CHECK(refused.json().at("error").at("code") == "admin.no-build");
  CHECK(refused.err.empty());
  CHECK(fixture.run({"api", "no-such"}, true).json().at("error").at("code") == "command.usage");
}

TEST_CASE("administration: accounts are added, listed and removed", "[server][admin]") {
  Fixture f;
  CHECK(f.run({"account", "add", "team-a"}).out == "account 'team-a' added\n");
  CHECK(f.run({"account", "add", "team-a", "--json"}).json().at("created") == json::value(false));
  f.add("one", tests::nar_of_file("1"), {}, "team-a");
  const auto listed = f.run({"account", "list", "--json"}).json();
  REQUIRE(listed.as_array().size() == 2);
  CHECK(listed.at(0).at("name") == json::value("default"));
  CHECK(listed.at(1).at("paths") == json::value(1));
  CHECK(f.run({"account", "list"}).out == "ACCOUNT  PATHS\ndefault      0\nteam-a       1\n");

  const auto in_use = f.run({"account", "remove", "team-a"});
  CHECK(in_use.status == 1);
  CHECK(in_use.err.find("1 store paths and 0 keys") != std::string::npos);
  CHECK(f.run({"account", "remove", "team-a", "--force"}).status == 0);
  CHECK(f.run({"account", "remove", "team-a"}).status == 4);
  CHECK(f.run({"account", "remove", "default"}).status == 1);
  CHECK(f.run({"account", "add", "Not A Name"}).status == 1);
  CHECK(f.run({"builds"}, false, "team-a").status == 4);
}

TEST_CASE("administration: a removed account leaves no token for one of the same name",
          "[server][admin]") {
  tests::ScratchFolder folder;
  const auto file = (folder.path() / "tokens").string();
  server::AccountDesk::Settings settings;
  settings.tokens_file = file;
  Fixture f(settings);
  for (const char* account : {"team-a", "team-b"}) {
    f.db->ensure_account(account);
    server::HttpToken token;
    token.account = account;
    token.name = "ci";
    static_cast<void>(server::add_token(file, token));
  }
  CHECK(f.run({"account", "remove", "team-a"}).out ==
        "account 'team-a' removed with 0 store paths, 0 keys and 1 tokens\n");
  const auto left = server::read_tokens(file).tokens;
  REQUIRE(left.size() == 1);
  CHECK(left[0].account == "team-b");
}

TEST_CASE("administration: words that make no command are usage errors",
          "[server][admin][reject]") {
  Fixture f;
  for (const auto& words : std::vector<std::vector<std::string>>{{},
                                                                 {"frobnicate"},
                                                                 {"path"},
                                                                 {"path", "info"},
                                                                 {"log"},
                                                                 {"log", "one"},
                                                                 {"log", "1", "2"},
                                                                 {"builds", "--follow"},
                                                                 {"builds", "--nothing"},
                                                                 {"builds", "--limit"},
                                                                 {"builds", "--limit", "many"},
                                                                 {"builds", "--json=yes"},
                                                                 {"gc", "--older-than", "soon"}}) {
    const auto outcome = f.run(words);
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 2);
    CHECK(outcome.out.empty());
    CHECK(outcome.err.starts_with("error: "));
  }
}

TEST_CASE("administration: help tells every command, and of a command its options",
          "[server][admin]") {
  Fixture f;
  const auto all = f.run({"--help"}, true);
  CHECK(all.status == 0);
  for (const auto& spec : server::command_table()) {
    CHECK(all.out.find(spec.words) != std::string::npos);
    std::vector<std::string> words{std::string(spec.words), "--help"};
    if (const auto blank = words[0].find(' '); blank != std::string::npos) {
      words = {words[0].substr(0, blank), words[0].substr(blank + 1), "--help"};
    }
    const auto one = f.run(words);
    CHECK(one.status == 0);
    for (const auto& option : spec.options) {
      CHECK(one.out.find(option.name) != std::string::npos);
    }
  }
  CHECK(f.run({"path", "--help"}).out.find("path verify") != std::string::npos);
  CHECK(f.run({"path", "--help"}).out.find("account add") == std::string::npos);
}

TEST_CASE("administration: a limited session stays in its account", "[server][admin][reject]") {
  Fixture f;
  const auto info = f.add("mine", tests::nar_of_file("1"));
  f.db->ensure_account("other");
  for (const auto& words :
       std::vector<std::vector<std::string>>{{"account", "add", "x"},
                                             {"account", "remove", "other"},
                                             {"gc"},
                                             {"run", "x.drv"},
                                             {"kernel", "list"},
                                             {"doctor"},
                                             {"builds", "--account", "other"},
                                             {"path", "verify", "--account=other"}}) {
    const auto outcome = f.run(words, true);
    CAPTURE(words, outcome.err);
    CHECK(outcome.status == 3);
  }
  CHECK(f.run({"account", "list"}, true, "other").out == "ACCOUNT  PATHS\nother        0\n");
  CHECK(f.run({"path", "list"}, true, "other").out.find("mine") == std::string::npos);
  CHECK(f.run({"path", "info", printed(f, info)}, true, "other").status == 4);
  CHECK(f.run({"path", "cat", printed(f, info)}, true, "other").status == 4);
  CHECK(f.run({"path", "cat", printed(f, info)}, true).out == "1");
}

TEST_CASE("administration: store paths are described", "[server][admin]") {
  Fixture f;
  const auto base = f.add("base", tests::nar_of_file("base"));
  const auto top = f.add("top", tests::nar_of_file("top"), {base.path});
  const auto told =
      f.run({"path", "info", "--json", "--closure-size", printed(f, top)}).json().at(0);
  CHECK(told.at("path") == json::value(printed(f, top)));
  CHECK(told.at("narSize") == json::value(top.nar_size));
  CHECK(told.at("references").at(0) == json::value(printed(f, base)));
  CHECK(told.at("closureSize") == json::value(top.nar_size + base.nar_size));
  CHECK(told.at("deriver").is_null());

  const std::string hash(top.path.hash_part());
  CHECK(f.run({"path", "info", hash}).out == f.run({"path", "info", top.path.base_name()}).out);
  CHECK(f.run({"path", "list", "--json"}).json().as_array().size() == 2);
  CHECK(f.run({"path", "list"}).out.find(printed(f, base)) != std::string::npos);

  CHECK(f.run({"path", "info", "00000000000000000000000000000000-none"}).status == 4);
  CHECK(f.run({"path", "info", "00000000000000000000000000000000"}).status == 4);
  CHECK(f.run({"path", "info", "/elsewhere/x"}).status == 1);
  CHECK(f.run({"path", "info", printed(f, top) + "/bin"}).status == 1);
}

TEST_CASE("administration: files of store paths are listed and printed", "[server][admin]") {
  Fixture f;
  std::string large(300'000, 'x');
  large += "end";
  const auto nar = nar_of_tree(large);
  const auto info = f.add("tree", nar);
  const auto path = printed(f, info);
  const auto listed = f.run({"path", "list", "--json", path}).json();
  REQUIRE(listed.as_array().size() == 3);
  CHECK(listed.at(0).at("type") == json::value("directory"));
  CHECK(listed.at(1).at("size") == json::value(large.size()));
  CHECK(listed.at(2).at("target") == json::value("bin/hello"));
  CHECK(f.run({"path", "list", path + "/bin/"}).out.find("executable    10  hello") !=
        std::string::npos);

  CHECK(f.run({"path", "cat", path + "/bin/hello"}).out == "#!/bin/sh\n");
  CHECK(f.run({"path", "cat", path + "/large"}).out == large);
  CHECK(f.run({"path", "cat", "--nar", path}).out == nar);
  CHECK(f.run({"path", "cat", path}).status == 1);
  CHECK(f.run({"path", "cat", path + "/link"}).status == 1);
  CHECK(f.run({"path", "cat", path + "/bin/none"}).status == 4);
  CHECK(f.run({"path", "list", path + "/none"}).status == 4);
}

TEST_CASE("administration: verify finds a path whose contents are not its hash",
          "[server][admin]") {
  Fixture f;
  model::StorePaths good;
  for (int i = 0; i < 20; ++i) {
    good.push_back(f.add("good" + std::to_string(i), tests::nar_of_file(std::to_string(i))).path);
  }
  const auto fine = f.run({"path", "verify"});
  CHECK(fine.status == 0);
  CHECK(fine.out == "20 store paths verified, 0 findings\n");

  model::PathInfo lost = *f.db->path_info(f.account, good.front());
  const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of("lost"));
  lost.path = model::StorePath(digest.bytes().first(20), "lost");
  lost.nar_hash = digest;
  f.db->register_paths(f.account, {&lost, 1});
  const auto broken = f.run({"path", "verify", "--json"});
  CHECK(broken.status == 1);
  CHECK(broken.json().at("checked") == json::value(21));
  REQUIRE(broken.json().at("findings").as_array().size() == 1);
  CHECK(broken.json().at("findings").at(0).at("code") == json::value("store.missing-segment"));
  CHECK(f.run({"path", "verify", good.front().base_name()}).status == 0);
}

TEST_CASE("administration: garbage is what is neither kept nor young", "[server][admin]") {
  Fixture f;
  const auto base = f.add("base", tests::nar_of_file("base"), {}, "default", 1000);
  const auto top = f.add("top", tests::nar_of_file("top"), {base.path}, "default", 1000);
  const auto young = f.add("young", tests::nar_of_file("young"));
  const auto old = f.add("old", tests::nar_of_file("old"), {}, "default", 1000);
  const auto done = f.run({"gc", "--json", "--keep", printed(f, top), "--older-than", "1h"});
  CHECK(done.json().at("pathsRemoved") == json::value(1));
  const model::StorePaths all = {base.path, top.path, young.path, old.path};
  CHECK(f.db->valid_paths(f.account, all) == model::StorePaths{base.path, top.path, young.path});
  CHECK(f.run({"gc", "--keep", old.path.base_name()}).status == 4);
  const auto rest = f.run({"gc"});
  CHECK(rest.out.starts_with("3 store paths removed"));
  CHECK(f.db->all_paths(f.account).empty());
}

TEST_CASE("administration: builds are listed newest first, and shown", "[server][admin]") {
  Fixture f;
  const auto first = f.add_build("a.drv", model::BuildStatus::Built);
  const auto second = f.add_build("b\x1b[2J.drv", model::BuildStatus::PermanentFailure);
  const auto third = f.add_build("c.drv", std::nullopt);
  const auto all = f.run({"builds", "--json"}).json();
  REQUIRE(all.as_array().size() == 3);
  CHECK(all.at(0).at("id") == json::value(third));
  CHECK(all.at(0).at("status") == json::value("running"));
  CHECK(all.at(0).at("stopped").is_null());
  CHECK(all.at(2).at("started") == json::value("2023-11-14T22:13:21.000000Z"));
  CHECK(all.at(2).at("durationSeconds") == json::value(62.5));
  CHECK(all.at(2).at("phasesMicroseconds").at("boot") == json::value(1'500'000));
  CHECK(f.run({"builds", "--limit", "1", "--json"}).json().as_array().size() == 1);
  CHECK(f.run({"builds", "--failed", "--json"}).json().at(0).at("id") == json::value(second));
  CHECK(f.run({"builds", "--running", "--json"}).json().as_array().size() == 1);

  const auto table = f.run({"builds"}).out;
  CHECK(table.find('\x1b') == std::string::npos);
  CHECK(table.find("1 m 02 s") != std::string::npos);
  const auto one = f.run({"builds", std::to_string(first)}).out;
  CHECK(one.find("boot       1.50 s") != std::string::npos);
  CHECK(f.run({"builds", "99"}).status == 4);
  f.db->ensure_account("other");
  CHECK(f.run({"builds", std::to_string(first)}, false, "other").status == 4);
  CHECK(f.run({"log", std::to_string(first)}, false, "other").status == 4);
}

TEST_CASE("administration: a log is printed, and followed to the build's end", "[server][admin]") {
  Fixture f;
  const auto number = f.add_build("a.drv", std::nullopt);
  const auto words = std::vector<std::string>{"log", std::to_string(number)};
  CHECK(f.run(words).out.empty());
  f.logs->append(number, bytes_of("one\n"));
  CHECK(f.run(words).out == "one\n");

  std::thread build([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    f.logs->append(number, bytes_of(std::string(200'000, 'y')));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    f.logs->append(number, bytes_of("end\n"));
    f.logs->finish(number);
  });
  auto followed = f.run({"log", "--follow", std::to_string(number)});
  build.join();
  CHECK(followed.status == 0);
  CHECK(followed.out == "one\n" + std::string(200'000, 'y') + "end\n");
  CHECK(f.run({"log", "--follow", std::to_string(number)}).out == followed.out);
}

TEST_CASE("administration: following ends when the caller does", "[server][admin]") {
  Fixture f;
  const auto number = f.add_build("a.drv", std::nullopt);
  int ends[2] = {-1, -1};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  UniqueFd caller(ends[0]);
  auto fds = std::make_shared<std::array<UniqueFd, 3>>();
  (*fds)[0].reset(ends[1]);
  std::thread leaving([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    caller.reset();
  });
  const auto outcome =
      f.run_with({"log", "--follow", std::to_string(number)}, false, "default", std::move(fds));
  leaving.join();
  CHECK(outcome.status != 0);
}

TEST_CASE("listings: columns, sizes, times and what terminals must not see", "[server][admin]") {
  server::TextTable table({{"A", server::TextTable::Align::Right}, {"B"}, {"C"}});
  table.add({"1", "ü", "x"});
  table.add({"22", "longer", "\x1b]0;t\x07"});
  CHECK(table.text() == " A  B       C\n 1  ü       x\n22  longer  ?]0;t?\n");
  CHECK(server::printable("a\xff\xc2\x9b\xe2\x82\xac\xe2\x82") == "a???€??");
  CHECK(server::human_size(1023) == "1023 B");
  CHECK(server::human_size(1536 * kKiB) == "1.5 MiB");
  CHECK(server::human_duration(0) == "0.00 s");
  CHECK(server::human_duration(3'661'000'000) == "1 h 01 m");
  CHECK(server::human_time(0) == "-");
  CHECK(server::iso_time(1'700'000'000) == "2023-11-14T22:13:20Z");
  CHECK(server::parse_age("90") == 90);
  CHECK(server::parse_age("2w") == 2 * 604'800);
  CHECK_THROWS_AS(server::parse_age("w"), Error);
  CHECK_THROWS_AS(server::parse_age("-1d"), Error);
}

} // namespace admin_test
