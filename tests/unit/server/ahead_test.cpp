// Questions that come ahead: answered at once, told in order.

#include "worker_client.hpp"

#include <condition_variable>
#include <mutex>

namespace ahead_test {

using namespace nixbuild;
using namespace nixbuild::tests;

namespace {

/// Once armed, whoever opens a segment waits until two do.
class MeetingSegments final : public store::SegmentStore {
public:
  struct Meeting {
    std::mutex mutex;
    std::condition_variable changed;
    bool armed = false;
    int here = 0;
    bool met = false;
  };

  explicit MeetingSegments(std::shared_ptr<Meeting> meeting) : meeting_(std::move(meeting)) {}

  std::unique_ptr<store::SegmentDraft> begin() override { return inner_->begin(); }

  std::optional<store::OpenSegment> open(const Hash& nar_hash) override {
    std::unique_lock lock(meeting_->mutex);
    if (meeting_->armed) {
      meeting_->met = meeting_->met || ++meeting_->here == 2;
      meeting_->changed.notify_all();
      meeting_->changed.wait_for(lock, std::chrono::seconds(10), [this] { return meeting_->met; });
      --meeting_->here;
    }
    return inner_->open(nar_hash);
  }

  bool contains(const Hash& nar_hash) override { return inner_->contains(nar_hash); }

  void sync(std::span<const Hash> nar_hashes) override { inner_->sync(nar_hashes); }

  void visit(const std::function<void(const Hash&)>& visit) override { inner_->visit(visit); }

  void remove(const Hash& nar_hash) override { inner_->remove(nar_hash); }

private:
  std::shared_ptr<Meeting> meeting_;
  std::unique_ptr<store::SegmentStore> inner_ = store::make_memory_segments();
};

void arm(MeetingSegments::Meeting& meeting) {
  const std::lock_guard lock(meeting.mutex);
  meeting.armed = true;
}

} // namespace

TEST_CASE("questions ahead: independent ones are looked up together and told in order",
          "[server]") {
  const auto meeting = std::make_shared<MeetingSegments::Meeting>();
  PaperServer server(good_build, std::make_unique<MeetingSegments>(meeting));
  Client client(server);
  client.hello();
  const auto one = add_derivation(client, "one", {});
  const auto two = add_derivation(client, "two", {});
  arm(*meeting);
  std::string all;
  const std::vector<worker::Request> questions = {worker::QueryDerivationOutputMap{one},
                                                  worker::IsValidPath{one},
                                                  worker::QueryDeriver{path_named("nowhere")},
                                                  worker::QueryDerivationOutputMap{two},
                                                  worker::IsValidPath{path_named("nowhere")}};
  for (const auto& question : questions) {
    worker::write_request(all, model::StoreDir(), client.peer(), question);
  }
  client.send(all);
  const auto first = client.answer(questions[0]);
  CHECK(reply_of<worker::OutputMapReply>(first).outputs.at("out") == output_of(one));
  CHECK(reply_of<worker::NumberReply>(client.answer(questions[1])).value == 1);
  CHECK(client.answer(questions[2]).failure);
  const auto second = client.answer(questions[3]);
  CHECK(reply_of<worker::OutputMapReply>(second).outputs.at("out") == output_of(two));
  CHECK(reply_of<worker::NumberReply>(client.answer(questions[4])).value == 0);
  CHECK(meeting->met);
  CHECK(client.end() == 0);
}

TEST_CASE("questions ahead: what changes something is neither overtaken nor overtakes",
          "[server]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::string all;
  std::vector<worker::Request> requests;
  const model::StoreDir dir;
  for (int i = 0; i < 30; ++i) {
    const auto name = "text-" + std::to_string(i);
    const auto contents = "contents of " + name;
    const auto digest = hash_of(HashAlgorithm::Sha256, bytes_of(contents));
    const auto path = model::make_text_path(dir, name, digest, {});
    requests.emplace_back(worker::IsValidPath{path});
    requests.emplace_back(worker::QueryValidPaths{{path}, false});
    requests.emplace_back(worker::AddTextToStore{name, contents, {}});
    requests.emplace_back(worker::IsValidPath{path});
    requests.emplace_back(worker::QueryValidPaths{{path}, false});
  }
  // Older clients send texts without a frame.
  const protocol::Version old(1, 24);
  Client older(server, old);
  older.hello();
  for (const auto& request : requests) {
    worker::write_request(all, dir, older.peer(), request);
  }
  older.send(all);
  for (std::size_t i = 0; i < requests.size(); i += 5) {
    CAPTURE(i);
    CHECK(reply_of<worker::NumberReply>(older.answer(requests[i])).value == 0);
    CHECK(reply_of<worker::PathsReply>(older.answer(requests[i + 1])).paths.empty());
    CHECK(older.answer(requests[i + 2]).reply);
    CHECK(reply_of<worker::NumberReply>(older.answer(requests[i + 3])).value == 1);
    CHECK(reply_of<worker::PathsReply>(older.answer(requests[i + 4])).paths.size() == 1);
  }
  CHECK(older.end() == 0);
  CHECK(client.end() == 0);
}

TEST_CASE("questions ahead: nonsense behind them does not take their answers", "[server][reject]") {
  PaperServer server(good_build);
  Client client(server);
  client.hello();
  std::string all;
  const worker::Request question = worker::IsValidPath{path_named("nowhere")};
  for (int i = 0; i < 3; ++i) {
    worker::write_request(all, model::StoreDir(), client.peer(), question);
  }
  all += std::string(8, '\x63');
  client.send(all);
  for (int i = 0; i < 3; ++i) {
    CHECK(reply_of<worker::NumberReply>(client.answer(question)).value == 0);
  }
  CHECK(client.answer(question).failure);
  CHECK(client.end() == 1);
}

} // namespace ahead_test
