// docs/protocol.md is printed from the tables that the codecs run on. With NIXBUILD_TEST_ACCEPT=1
// it is written anew.

#include "protocol/serve_tables.hpp"
#include "unit/protocol/conversation.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <fstream>
#include <sstream>

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

std::string text_of_version(Version version) {
  return std::to_string(version.major_number()) + "." + std::to_string(version.minor_number());
}

template <class Layout>
void print_fields(std::ostream& out) {
  const auto row = [&]<class Entry>(const Entry& entry) {
    out << "| " << entry.name << " | " << Entry::CodecType::kind << " | "
        << text_of_version(std::max(entry.since, Version{2, 0})) << " | "
        << (entry.until == wire::kForever ? std::string() : text_of_version(entry.until)) << " |\n";
  };
  std::apply(
      [&](const auto&... entries) {
        if constexpr (sizeof...(entries) == 0) {
          out << "No fields.\n\n";
        } else {
          out << "| field | form | since | until |\n|---|---|---|---|\n";
          (row(entries), ...);
          out << '\n';
        }
      },
      Layout::fields);
}

template <std::size_t... Index>
void print_requests(std::ostream& out, std::index_sequence<Index...>) {
  const auto one = [&]<class Request>(const serve::Operation& row, const Request*) {
    out << "### " << row.number << ' ' << row.name << "\n\n";
    print_fields<serve::Layout<Request>>(out);
  };
  (one(serve::kOperations[Index],
       static_cast<const std::variant_alternative_t<Index, serve::Request>*>(nullptr)),
   ...);
}

template <class Layout>
void print_part(std::ostream& out) {
  out << "### " << Layout::kName << "\n\n";
  print_fields<Layout>(out);
}

std::string document() {
  std::ostringstream out;
  out << "# The serve protocol\n\n"
         "Printed from the tables in `lib/protocol` by the unit test `serve_document_test`; do not "
         "edit.\n\n"
         "Spoken by `ssh://` stores over standard input and output. Versions "
      << text_of_version(serve::kOldestVersion) << " to " << text_of_version(serve::kNewestVersion)
      << "; our server announces " << text_of_version(serve::kServerVersion)
      << ".\nThe client sends magic and version, the server answers with its own; both use the "
         "smaller version. Then requests\nand replies follow each other: a command word, the "
         "fields of its table in order.\n\n"
         "All integers are 64-bit little endian words. A string is its length, its bytes, and "
         "zero bytes up to a multiple\nof eight. A list or map is a count and its elements. A path "
         "is a string.\n\n"
         "## Operations\n\n"
         "| number | name | since | needs `--write` | permission | reply "
         "|\n|---|---|---|---|---|---|\n";
  for (const auto& row : serve::kOperations) {
    out << "| " << row.number << " | " << row.name << " | " << text_of_version(row.since) << " | "
        << (row.needs_write ? "yes" : "no") << " | " << name_of(row.permission) << " | "
        << row.reply << " |\n";
  }
  out << "\n## Requests\n\n";
  print_requests(out, std::make_index_sequence<serve::kOperations.size()>());
  out << "## Parts of messages\n\n";
  print_part<wire::BasicDerivationLayout>(out);
  print_part<serve::BuildOptionsLayout>(out);
  print_part<serve::PathInfoLayout>(out);
  print_part<serve::BuildResultLayout>(out);
  auto text = out.str();
  text.pop_back(); // the last table's empty line
  return text;
}

} // namespace

TEST_CASE("serve tables: the documentation is current", "[protocol][golden]") {
  const std::filesystem::path file = DOCS_DIR "/protocol.md";
  if (std::getenv("NIXBUILD_TEST_ACCEPT") != nullptr) {
    std::ofstream(file, std::ios::binary) << document();
  }
  CHECK(test::read_file(file) == document());
}
