// The protocol's framing, [kind][header][part]*, with cppzmq and msgpack-c. A struct's fields are
// the header's keys; keys that it does not name are ignored (docs/wire-protocol.md).
#pragma once
#include <array>
#include <map>
#include <msgpack.hpp>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq_addon.hpp>

using Pose = std::array<double, 16>;  // row-major 4x4, camera to world, metres
using Nothing = std::map<std::string, int>;

struct Camera { std::string model; int width = 0, height = 0; std::vector<double> params;
    MSGPACK_DEFINE_MAP(model, width, height, params) };
struct Hello { std::array<int, 2> proto; std::string session, client, role, convention;
    std::map<std::string, Camera> cameras;
    MSGPACK_DEFINE_MAP(proto, session, client, role, convention, cameras) };
struct Frame { int64_t seq, stamp_ns; std::string camera, encoding; int width, height; Pose pose;
    MSGPACK_DEFINE_MAP(seq, stamp_ns, camera, encoding, width, height, pose) };
struct Poses { int64_t revision; std::vector<msgpack::type::tuple<int64_t, Pose>> poses;
    MSGPACK_DEFINE_MAP(revision, poses) };
// All that a daemon says, in one: what a kind does not have keeps its default.
struct Answer { std::string kind, code, reason; std::vector<int64_t> unknown;
    int64_t seq = -1, credit = 0, next_seq = 0, moved = 0; bool durable = false;
    MSGPACK_DEFINE_MAP(code, reason, unknown, seq, credit, next_seq, moved, durable) };

class Connection {
public:
    explicit Connection(const std::string& address) {
        socket_.set(zmq::sockopt::linger, 1000);  // the end waits so long, ms, for BYE to be sent
        socket_.connect(address);
    }
    template <typename Header>
    void say(const std::string& kind, const Header& header, const std::string& part = {}) {
        msgpack::sbuffer packed;
        msgpack::pack(packed, header);
        std::vector<zmq::const_buffer> parts{zmq::buffer(kind),
                                             {packed.data(), packed.size()}};
        if (!part.empty()) parts.push_back(zmq::buffer(part));
        zmq::send_multipart(socket_, parts);
    }

    bool heard(int within_ms = 0) {
        zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
        return zmq::poll(&item, 1, std::chrono::milliseconds(within_ms)) > 0;
    }

    Answer hear() {  // the next answer; a daemon silent for 3 s is asked, after 9 s given up
        for (int pings = 0; !heard(3000); say("PING", Nothing{}))
            if (++pings == 3) throw std::runtime_error("the daemon is silent: is it running?");
        std::vector<zmq::message_t> parts;
        if (!zmq::recv_multipart(socket_, std::back_inserter(parts)) || parts.size() < 2)
            throw std::runtime_error("what came is no answer of a daemon");
        Answer answer;
        msgpack::unpack(parts[1].data<char>(), parts[1].size()).get().convert(answer);
        answer.kind = parts[0].to_string();
        if (answer.kind == "ERROR") throw std::runtime_error(answer.code + ": " + answer.reason);
        return answer;
    }

private:
    zmq::context_t context_;
    zmq::socket_t socket_{context_, zmq::socket_type::dealer};
};
