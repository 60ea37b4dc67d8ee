// docs/protocol.md is printed from the tables that the codecs run on. With NIXBUILD_TEST_ACCEPT=1
// it is written anew.

#include "protocol/serve_tables.hpp"
#include "protocol/worker_log_tables.hpp"
#include "protocol/worker_reply_tables.hpp"
#include "unit/protocol/conversation.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace document_test {

using namespace nixbuild;
using namespace nixbuild::protocol;

namespace {

std::string text_of_version(Version version) {
  return std::to_string(version.major_number()) + "." + std::to_string(version.minor_number());
}

/// Features that a field asks for, and ones that it gives way to.
template <class Entry>
std::string features_of(const Entry& entry) {
  const auto names = [](wire::FeatureBits bits, std::string_view before) {
    std::string out;
    for (const auto& [bit, name] :
         {std::pair(wire::kRealisationsByPath, worker::kRealisationWithPath),
          std::pair(wire::kGarbageScope, worker::kDeleteDeadSpecific)}) {
      if ((bits & bit) != 0) {
        out += std::string(before) + "`" + std::string(name) + "`";
      }
    }
    return out;
  };
  return names(entry.with, "with ") + names(entry.without, "without ");
}

/// A protocol's oldest version: fields that say nothing have been there from it on.
template <class Layout>
void print_fields(std::ostream& out, Version oldest, bool has_features) {
  const auto row = [&]<class Entry>(const Entry& entry) {
    out << "| " << entry.name << " | " << Entry::CodecType::kind << " | "
        << text_of_version(std::max(entry.since, oldest)) << " | "
        << (entry.until == wire::kForever ? std::string() : text_of_version(entry.until)) << " |";
    out << (has_features ? " " + features_of(entry) + " |\n" : "\n");
  };
  std::apply(
      [&](const auto&... entries) {
        if constexpr (sizeof...(entries) == 0) {
          out << "No fields.\n\n";
        } else {
          out << "| field | form | since | until |" << (has_features ? " features |\n" : "\n")
              << "|---|---|---|---|" << (has_features ? "---|\n" : "\n");
          (row(entries), ...);
          out << '\n';
        }
      },
      Layout::fields);
}

template <class Layout>
void print_serve_part(std::ostream& out) {
  out << "### " << Layout::kName << "\n\n";
  print_fields<Layout>(out, Version{2, 0}, false);
}

template <class Layout>
void print_worker_part(std::ostream& out) {
  out << "### " << Layout::kName << "\n\n";
  print_fields<Layout>(out, worker::kOldestVersion, true);
}

/// Every version has the same.
template <class Layout>
void print_shared_part(std::ostream& out) {
  const auto row = [&]<class Entry>(const Entry& entry) {
    out << "| " << entry.name << " | " << Entry::CodecType::kind << " |\n";
  };
  out << "## " << Layout::kName << "\n\n| field | form |\n|---|---|\n";
  std::apply([&](const auto&... entries) { (row(entries), ...); }, Layout::fields);
  out << '\n';
}

template <std::size_t... Index>
void print_serve_requests(std::ostream& out, std::index_sequence<Index...>) {
  const auto one = [&]<class Request>(const serve::Operation& row, const Request*) {
    out << "### " << row.number << ' ' << row.name << "\n\n";
    print_fields<serve::Layout<Request>>(out, Version{2, 0}, false);
  };
  (one(serve::kOperations[Index],
       static_cast<const std::variant_alternative_t<Index, serve::Request>*>(nullptr)),
   ...);
}

/// One table a message of a variant; `title(i)` heads the i-th.
template <class Variant, class Title, std::size_t... Index>
void print_worker_messages(std::ostream& out, Title title, std::index_sequence<Index...>) {
  const auto one = [&]<class Message>(std::size_t index, const Message*) {
    out << "### " << title(index) << "\n\n";
    print_fields<worker::Layout<Message>>(out, worker::kOldestVersion, true);
  };
  (one(Index, static_cast<const std::variant_alternative_t<Index, Variant>*>(nullptr)), ...);
}

template <class Variant, class Title>
void print_worker_messages(std::ostream& out, Title title) {
  print_worker_messages<Variant>(
      out, title, std::make_index_sequence<std::variant_size_v<Variant>>());
}

void print_beginning(std::ostream& out) {
  out << "# The protocols\n\n"
         "Printed from the tables in `lib/protocol` by the unit test `document_test`; do not "
         "edit.\n\n"
         "All integers are 64-bit little endian words. A string is its length, its bytes, and "
         "zero bytes up to a multiple\nof eight. A list or map is a count and its elements. A path "
         "is a string. A framed stream repeats a length above\n0 and that many bytes without "
         "padding, and ends with a length of 0.\n\n";
}

void print_serve(std::ostream& out) {
  out << "# The serve protocol\n\n"
         "Spoken by `ssh://` stores over standard input and output. Versions "
      << text_of_version(serve::kOldestVersion) << " to " << text_of_version(serve::kNewestVersion)
      << "; our server announces " << text_of_version(serve::kServerVersion)
      << ".\nThe client sends magic and version, the server answers with its own; both use the "
         "smaller version. Then requests\nand replies follow each other: a command word, the "
         "fields of its table in order.\n\n"
         "## Serve operations\n\n"
         "| number | name | since | needs `--write` | permission | reply |\n"
         "|---|---|---|---|---|---|\n";
  for (const auto& row : serve::kOperations) {
    out << "| " << row.number << " | " << row.name << " | " << text_of_version(row.since) << " | "
        << (row.needs_write ? "yes" : "no") << " | " << name_of(row.permission) << " | "
        << row.reply << " |\n";
  }
  out << "\n## Serve requests\n\n";
  print_serve_requests(out, std::make_index_sequence<serve::kOperations.size()>());
  out << "## Parts of serve messages\n\n";
  print_serve_part<serve::BuildOptionsLayout>(out);
  print_serve_part<serve::PathInfoLayout>(out);
  print_serve_part<serve::BuildResultLayout>(out);
}

void print_worker_beginning(std::ostream& out) {
  out << "# The worker protocol\n\n"
         "Spoken by `ssh-ng://` stores over standard input and output. Versions "
      << text_of_version(worker::kOldestVersion) << " to "
      << text_of_version(worker::kNewestVersion) << "; our server announces "
      << text_of_version(worker::kServerVersion)
      << ".\nBoth sides use the smaller version and, from 1.38, the features that both know.\n\n"
         "| step | from | content | since |\n|---|---|---|---|\n"
         "| 1 | client | magic, version; older clients send the version after step 2 | 1.18 |\n"
         "| 2 | server | magic, version; at once after the client's first 8 bytes | 1.18 |\n"
         "| 3 | both | list of features | 1.38 |\n"
         "| 4 | client | obsolete: CPU affinity (0, or a word and one more), reserved space | 1.18 "
         "|\n"
         "| 5 | server | version of the daemon | 1.33 |\n"
         "| 6 | server | trust: 0 unknown, 1 trusted, 2 not trusted | 1.35 |\n"
         "| 7 | server | messages of the stderr channel up to STDERR_LAST | 1.18 |\n\n"
         "Then operations follow each other. The client sends an operation word, the fields of its "
         "table in order, and its\npayload. The server sends messages of the stderr channel: a "
         "code word and the fields of its table. After\nSTDERR_LAST comes the reply, after "
         "STDERR_ERROR none. Whatever is removed or unknown is answered with an error\n"
         "`invalid operation N` and the end of the session.\n\n";
}

void print_worker_operations(std::ostream& out) {
  out << "## Worker operations\n\n"
         "| number | name | since | permission | reply |\n|---|---|---|---|---|\n";
  for (const auto& row : worker::kOperations) {
    out << "| " << row.number << " | " << row.name << " | " << text_of_version(row.since) << " | "
        << name_of(row.permission) << " | " << worker::kReplyForms[row.reply].name << " |\n";
  }
  out << "\nThe reply to AddToStore is PathReply below "
      << text_of_version(worker::kPathInfoFromAddToStore)
      << ". NarFromPath is followed by a NAR. Payloads:\n\n"
         "| operation | payload |\n|---|---|\n"
         "| AddToStore | framed: a NAR, for flat and text methods the bytes; below 1.25 a NAR |\n"
         "| AddToStoreNar | framed NAR; 1.21 and 1.22 strings, each asked for with STDERR_READ; "
         "below a NAR |\n"
         "| AddMultipleToStore | framed: a count, then for each path ValidPathInfo and NAR |\n"
         "| AddBuildLog | framed log |\n\n";
}

void print_worker(std::ostream& out) {
  print_worker_beginning(out);
  print_worker_operations(out);
  out << "## Worker requests\n\n";
  print_worker_messages<worker::Request>(out, [](std::size_t index) {
    const auto& row = worker::kOperations[index];
    return std::to_string(row.number) + " " + std::string(row.name);
  });
  out << "## Worker replies\n\n";
  print_worker_messages<worker::Reply>(
      out, [](std::size_t index) { return std::string(worker::kReplyForms[index].name); });
  out << "## The stderr channel\n\n";
  print_worker_messages<worker::LogMessage>(out, [](std::size_t index) {
    const auto& form = worker::kLogForms[index];
    std::ostringstream title;
    title << std::hex << "0x" << form.code << ' ' << form.name;
    return title.str();
  });
  out << "## Parts of worker messages\n\n";
  print_worker_part<worker::SubstitutableLayout>(out);
  print_worker_part<worker::BuildResultLayout>(out);
}

std::string document() {
  std::ostringstream out;
  print_beginning(out);
  print_serve(out);
  print_worker(out);
  out << "# Parts of both protocols\n\n";
  print_shared_part<wire::BasicDerivationLayout>(out);
  print_shared_part<wire::ValidPathInfoLayout>(out);
  print_shared_part<wire::PathFactsLayout>(out);
  auto text = out.str();
  text.pop_back(); // the last table's empty line
  return text;
}

} // namespace

TEST_CASE("protocol tables: the documentation is current", "[protocol][golden]") {
  const std::filesystem::path file = DOCS_DIR "/protocol.md";
  if (std::getenv("NIXBUILD_TEST_ACCEPT") != nullptr) {
    std::ofstream(file, std::ios::binary) << document();
  }
  CHECK(test::read_file(file) == document());
}

} // namespace document_test
