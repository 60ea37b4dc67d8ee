#include "build/derivation_options.hpp"
#include "build/environment.hpp"
#include "build/steps.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <map>
#include <string>

namespace derivation_options_test {

using namespace nixbuild;
using build::Words;

namespace {

model::BasicDerivation derivation_with(std::map<std::string, std::string> environment) {
  model::BasicDerivation derivation;
  for (const char* name : {"dev", "out"}) {
    derivation.outputs[name].path =
        model::StorePath::parse(std::string("ygnhkm73da8rlsijix5xngqc6jvmxpjk-") + name);
  }
  derivation.environment = std::move(environment);
  return derivation;
}

build::DerivationOptions options_of(std::map<std::string, std::string> environment) {
  return build::read_options(derivation_with(std::move(environment)), "x.drv");
}

/// What the guest is given for structured attributes.
std::map<std::string, std::string>
files_of(std::string_view json,
         const std::map<std::string, std::vector<build::GraphPath>>& graphs = {}) {
  const model::StoreDir dir;
  sandbox::GuestJob job;
  job.outputs.push_back({"out", "ygnhkm73da8rlsijix5xngqc6jvmxpjk-x"});
  build::add_structured_files(
      job, dir, json, graphs, build::placeholder_rewrites(dir, job.outputs));
  std::map<std::string, std::string> files;
  for (const auto& file : job.files) {
    files[file.name] = file.contents;
  }
  return files;
}

std::string message_of(std::map<std::string, std::string> environment) {
  try {
    static_cast<void>(options_of(std::move(environment)));
    return "accepted";
  } catch (const build::BuildFailure& failure) {
    CHECK(failure.status() == model::BuildStatus::InputRejected);
    return failure.message();
  }
}

} // namespace

TEST_CASE("derivation options: words of the environment, for every output", "[build]") {
  const auto options = options_of({{"requiredSystemFeatures", "kvm\tbig-parallel\n"},
                                   {"impureEnvVars", "a b"},
                                   {"passAsFile", "text"},
                                   {"allowedReferences", ""},
                                   {"disallowedRequisites", "out /nix/store/x"},
                                   {"exportReferencesGraph", "one /nix/store/a two /nix/store/b"},
                                   {"outputChecks", "ignored"},
                                   {"__noChroot", "true"}});
  CHECK(options.required_features == std::set<std::string>{"big-parallel", "kvm"});
  CHECK(options.impure_variables == Words{"a", "b"});
  CHECK(options.pass_as_file == std::set<std::string>{"text"});
  CHECK_FALSE(options.no_chroot);
  CHECK_FALSE(options.structured);
  REQUIRE(options.rules.size() == 2);
  const auto& rules = options.rules.at("dev");
  CHECK(rules == options.rules.at("out"));
  CHECK(rules.allowed_references == Words());
  CHECK_FALSE(rules.allowed_requisites);
  CHECK(rules.disallowed_requisites == Words{"out", "/nix/store/x"});
  CHECK(rules.ignore_self);
  CHECK(options.references_graphs ==
        std::map<std::string, Words>{{"one", {"/nix/store/a"}}, {"two", {"/nix/store/b"}}});
}

TEST_CASE("derivation options: structured attributes have types, and rules an output", "[build]") {
  const auto options = options_of({{"allowedReferences", "ignored"}, {"__json", R"({
    "requiredSystemFeatures": ["kvm"], "impureEnvVars": ["a"], "passAsFile": ["text"],
    "allowedReferences": ["not", "read"],
    "exportReferencesGraph": {"g": ["/nix/store/a", ["/nix/store/b"]], "h": "/nix/store/c"},
    "outputChecks": {"out": {"maxSize": 10, "maxClosureSize": 20, "allowedRequisites": ["dev"]}},
    "unsafeDiscardReferences": {"dev": true, "out": false}})"}});
  CHECK(options.structured);
  CHECK(options.required_features == std::set<std::string>{"kvm"});
  CHECK(options.pass_as_file.empty());
  REQUIRE(options.rules.size() == 1);
  const auto& rules = options.rules.at("out");
  CHECK(rules.max_size == 10U);
  CHECK(rules.max_closure_size == 20U);
  CHECK(rules.allowed_requisites == Words{"dev"});
  CHECK_FALSE(rules.allowed_references);
  CHECK_FALSE(rules.ignore_self);
  CHECK(options.undiscovered == std::set<std::string>{"dev"});
  CHECK(options.references_graphs ==
        std::map<std::string, Words>{{"g", {"/nix/store/a", "/nix/store/b"}},
                                     {"h", {"/nix/store/c"}}});
}

TEST_CASE("derivation options: attributes of the wrong type are refused by name",
          "[build][reject]") {
  for (const auto& [json, word] : std::map<std::string, std::string>{
           {R"({"requiredSystemFeatures":"kvm"})", "requiredSystemFeatures"},
           {R"({"impureEnvVars":[1]})", "impureEnvVars"},
           {R"({"__noChroot":"1"})", "__noChroot"},
           {R"({"outputChecks":{"out":[]}})", "outputChecks"},
           {R"({"outputChecks":{"out":{"maxSize":-1}}})", "maxSize"},
           {R"({"outputChecks":{"out":{"allowedReferences":"out"}}})", "allowedReferences"},
           {R"({"unsafeDiscardReferences":{"out":1}})", "unsafeDiscardReferences"},
           {R"({"exportReferencesGraph":{"g":[1]}})", "exportReferencesGraph"},
           {R"([])", "no object"},
           {R"({"a":)", "__json"},
           {"{\"a\":\"\xff\"}", "__json"}}) {
    CAPTURE(json);
    const auto message = message_of({{"__json", json}});
    CHECK(message.find(word) != std::string::npos);
    CHECK(message.find("x.drv") != std::string::npos);
  }
  CHECK(message_of({{"exportReferencesGraph", "a"}}).find("odd number") != std::string::npos);
  CHECK(message_of({{"exportReferencesGraph", "../a /nix/store/b"}}).find("invalid file name") !=
        std::string::npos);
}

TEST_CASE("derivation options: what structured attributes cost has a limit", "[build][reject]") {
  const auto refused = [](const std::string& text, const build::JsonLimits& limits) {
    try {
      static_cast<void>(build::parse_attributes(text, "x.drv", limits));
      return false;
    } catch (const build::BuildFailure& failure) {
      return failure.message().find("x.drv") != std::string::npos;
    }
  };
  const std::string deep = R"({"a":)" + std::string(300, '[') + std::string(300, ']') + "}";
  CHECK(refused(deep, {}));
  CHECK_FALSE(refused(deep, {.text_bytes = 1000, .values = 1000, .depth = 400}));
  CHECK(refused(R"({"a":[1,2,3,4,5]})", {.text_bytes = 100, .values = 5, .depth = 5}));
  CHECK(refused(R"({"a":[1,2,3,4,5]})", {.text_bytes = 10, .values = 50, .depth = 5}));
}

TEST_CASE("structured files: each kind of value as the shell sees it", "[build][golden]") {
  const auto files = files_of(R"({"text":"it's","number":3,"no":false,"yes":true,"none":null,
    "list":["a b",1,null],"object":{"k":"v","it's":2},"nested":{"a":{"b":1}},"mixed":[1,[2]],
    "bad name":1,"half":1.5,"_x1":"","empty":[],"outputs":["out"]})");
  CHECK(files.at(".attrs.sh") ==
        "declare _x1=''\n"
        "declare -a empty=()\n"
        "declare -a list=('a b' 1 '' )\n"
        "declare no=\n"
        "declare none=''\n"
        "declare number=3\n"
        "declare -A object=(['it'\\''s']=2 ['k']='v' )\n"
        "declare -A outputs=(['out']='/nix/store/ygnhkm73da8rlsijix5xngqc6jvmxpjk-x' )\n"
        "declare text='it'\\''s'\n"
        "declare yes=1\n");
}

TEST_CASE("structured files: numbers become what a C int makes of them", "[build][golden]") {
  // Protocol facts 5.6, recorded from Nix 2.8 and 2.34.
  const std::map<std::string, std::string> expected = {{"3000000000", "-1294967296"},
                                                       {"4294967296", "0"},
                                                       {"9007199254740993", "1"},
                                                       {"18446744073709551615", "-1"},
                                                       {"2.0", "2"},
                                                       {"1e20", "-2147483648"},
                                                       {"1.5e300", "-2147483648"},
                                                       {"16777217.5", "16777217"},
                                                       {"123456789.125", "123456789"},
                                                       {"0.1", ""},
                                                       {"1.10", ""},
                                                       {"1.5", ""}};
  for (const auto& [number, shown] : expected) {
    CAPTURE(number);
    const auto text = files_of("{\"n\":" + number + "}").at(".attrs.sh");
    const std::string line = "declare n=" + shown + "\n";
    CHECK((text.find(line) != std::string::npos) == !shown.empty());
  }
}

TEST_CASE("structured files: the JSON is compact, sorted, and knows paths", "[build][golden]") {
  build::GraphPath path{
      .info = {.path = model::StorePath::parse("9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep"),
               .deriver = {},
               .nar_hash = hash_of(HashAlgorithm::Sha256, {}),
               .nar_size = 120,
               .references = {},
               .registration_time = 0,
               .ultimate = false,
               .signatures = {},
               .content_address = {}},
      .closure_size = 240};
  path.info.references = {path.info.path};
  const auto text = R"({ "z" : 1.10, "a": [1e20, "é\u00e9", 1.5e300], "p": ")" +
                    model::output_placeholder("out") + R"(/bin", "graph": 0 })";
  CHECK(files_of(text, {{"graph", {path}}}).at(".attrs.json") ==
        R"({"a":[1e+20,"éé",1.5e+300],"graph":[{"closureSize":240,"narHash":"sha256:)"
        R"(0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73","narSize":120,"path":)"
        R"("/nix/store/9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep","references":)"
        R"(["/nix/store/9f2xy8znfmr9mhs8g7ihximlvi1d1wmh-dep"],"valid":true}],"outputs":)"
        R"({"out":"/nix/store/ygnhkm73da8rlsijix5xngqc6jvmxpjk-x"},"p":)"
        R"("/nix/store/ygnhkm73da8rlsijix5xngqc6jvmxpjk-x/bin","z":1.1})");
}

} // namespace derivation_options_test
