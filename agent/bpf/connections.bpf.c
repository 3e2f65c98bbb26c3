//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One TCP connection held by two kernels.
 *
 * A switch gives every packet for a service (VIP, port) to two servers, and
 * lets only the packets of one of them, the active one, out again. These
 * programs keep the two servers' copies of each connection equal. They sit on
 * the interface that faces the switch and share no state with the other
 * server but a secret.
 *
 *
 *          from the switch                             to the switch
 *                 |                                          ^
 *        +--------v---------+                       +--------+---------+
 *        |     ingress      |                       |      egress      |
 *        +------------------+                       +------------------+
 *        | source is a VIP: |   a pure ACK          | FIN, RST: guard  |
 *        |   shadow  -------+---------------------> | acknowledged     |
 *        | SYN: align ------+--> SYN-ACK            |  already: synack |
 *        | ACK, no socket:  |                       | pure ACK: seqfix |
 *        |   align          | <---------------------+ gated: gate      |
 *        | socket: clamp    |   the client's ACK    |                  |
 *        +--------+---------+                       +--------^---------+
 *                 v                                          |
 *                 +------------------  TCP  -----------------+
 *
 *
 * THE WALK OF A CONNECTION
 *
 * SYN (align). The program answers itself, the kernel never sees the SYN. The
 * initial sequence number is SipHash-2-4 of the 4-tuple and the client's own
 * initial sequence number under the service's secret, with the low bits
 * replaced by the client's options (see "Cookies" below). Both servers answer
 * the same; the switch lets one answer out. Nothing is remembered that a flood
 * of SYNs could exhaust: `syns` may lose entries at any time.
 *
 * ACK, or the first data segment if the ACK was lost (align). If the socket
 * found is the listener and the ACK number is the one we would have answered
 * to this client's SYN, bpf_sk_assign_tcp_reqsk hands the kernel a ready
 * request with the options taken from the cookie. The kernel makes the
 * connection with exactly these numbers. A record in `conns` begins.
 *
 * If another socket of the same 4-tuple is in the way (TIME_WAIT, an orphan of
 * a dead process, a connection of a client that has lost its memory), and we
 * have seen the SYN and the ACK proves that the client got our answer to it,
 * the old socket is removed: the segment is turned into a RST with exactly the
 * sequence number that the old socket waits for, a copy goes to our own
 * ingress, and the segment itself follows behind it. The second time it meets
 * the listener.
 *
 * Segments of a live connection (clamp). The client acknowledges what the
 * active server has sent. A backup that is a moment behind has not sent it
 * yet, and Linux drops a segment, data and all, whose ACK number is beyond
 * snd_nxt. So the ACK number is lowered to snd_nxt, and the window is raised
 * by as much, so that its right edge stays where the client put it.
 *
 * Replies of the backup (synack). The backup writes a reply late, when the
 * client has acknowledged the active server's copy of it already, and no
 * acknowledgement will come again. Such a segment does not leave: it is turned
 * into the client's acknowledgement of itself and sent to our own ingress. The
 * kernel's send queue empties, nothing is retransmitted, the retransmission
 * timer is never backed off. If the segment carried news for the other server
 * (a higher ACK number or window edge), these leave first as a pure ACK.
 * A segment of which only a part is acknowledged leaves, and its first part is
 * acknowledged to ourselves.
 *
 * Pure ACKs of a server that lags (seqfix). A server that has just become
 * active and has sent less than the client has acknowledged would put an old
 * sequence number on its ACKs, and the client would drop them whole. They get
 * the highest sequence number that the client has acknowledged. Keepalive and
 * window probes, which are old on purpose, are left alone.
 *
 * FIN and RST (guard). When a process dies, its kernel says FIN or RST for
 * each of its connections. They leave only for connections in `closing`, where
 * the agent puts them before it closes. A FIN that rides on data is cut off
 * and the data leaves. Marks end when the next connection of the same 4-tuple
 * begins.
 *
 * ACKs of the active server (gate). What the client has been told is received
 * must be held by both servers. The switch sends the active server the frames
 * of the backup, cut down to their headers: the shadows, known by their source
 * address. Of the two servers, the slower one speaks: an ACK of ours that is
 * ahead of the backup's is swallowed, and a shadow that is not ahead of us is
 * turned into a pure ACK and sent to the client, with our sequence number and
 * our clock. A shadow that is ahead of us frees what we had to swallow before.
 * Data carries the lower of both ACK numbers and the lower of both window edges,
 * and SACK blocks say what both servers have.
 * Gating is a property of a connection (it began while the gate was on, see
 * `struct conn`) and of the service: one update of the service's entry opens
 * the gate for the next packet of every connection.
 *
 *
 * COOKIES
 *
 * What a SYN-ACK must carry back to us in the ACK, so that we need to remember
 * nothing: an index into mss_classes (3 bits), SACK (1 bit), the client's
 * window scale (4 bits, 15 is none).
 *
 *   with timestamps:    ISN = hash ^ mss                           29 bits of hash
 *                       TSval = clock in ms, low 5 bits: SACK << 4 | scale
 *   without timestamps: ISN = hash ^ (scale << 4 | SACK << 3 | mss) 24 bits of hash
 *
 * 24 bits are what Linux' own SYN cookies have. So clients without timestamps
 * keep window scaling and SACK. The hash covers whether there are timestamps.
 * ECN is never accepted: what it says belongs to one path and one host.
 *
 * The TSvals of the two servers' SYN-ACKs may differ, by the time between the
 * two copies of the SYN or by the difference of the servers' clocks. That is
 * harmless: the client sees one of them and echoes it to both servers, and
 * both set the connection's timestamp clock from that echo (see `elapsed`).
 *
 *
 * CHECKSUMS
 *
 * A packet of our own kernel, or one that GRO has put together, may carry a
 * checksum over the pseudo header only, to be completed by the device
 * (CHECKSUM_PARTIAL). Single fields are changed with bpf_l4_csum_replace,
 * which knows the difference; packets that are written anew ask the kernel's
 * own struct for it.
 *
 *
 * VERDICTS
 *
 * TCX_NEXT lets other programs on the same hook have their say. A swallowed
 * packet is redirected to interface 0, which does not exist: TCX_DROP (and
 * TC_ACT_SHOT) would tell TCP that the device is congested and halve its
 * window, and tcx takes TC_ACT_STOLEN for TCX_NEXT, so the packet would leave.
 *
 *
 * CONCURRENCY
 *
 * Ingress and egress of one connection run on several processors at once. Each
 * field of a record has one writer, except as its comment says. The gate needs
 * more: the two sides must not each believe that the other will speak. `own`
 * and `peer` are single words, each is written by one side with an atomic
 * exchange (a full barrier) before that side reads the other.
 *
 *
 * IPv6
 *
 * Addresses in keys are 16 bytes long, IPv4 as ::ffff:a.b.c.d, so that one set
 * of maps serves both families. What is missing for IPv6 is the parsing and
 * writing of its header, in parse() and write_segment(); looking at a socket
 * works for both.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "siphash.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk,
				   struct bpf_tcp_req_attrs *attrs, int attrs__sz) __ksym;
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

/*
 * A function with external linkage is verified once, by itself, and has a stack
 * frame of its own. Its pointers are never NULL (Linux 6.8).
 */
#define FUNCTION __attribute__((noinline))
#define NONNULL __attribute__((btf_decl_tag("arg:nonnull")))

/* ---- maps ---- */

struct service_key {
	__u32 vip[4];
	__be16 port;
	__u16 unused;
};

enum service_flags {
	SERVICE_ALIGN = 1,
	SERVICE_GUARD = 2,
	SERVICE_GATE = 4,
};

/* Replaced as a whole by user space; a program sees the old or the new one. */
struct service {
	__u64 secret[2];
	__u64 other_secret[2]; /* accepted as well; all zero: none */
	enum service_flags flags;
	__u32 generation; /* of the gate, never 0 */
	__u16 mss;	  /* what we announce, the most we use */
	__u8 wscale;	  /* what we announce */
	__u8 unused[5];
};

struct tuple {
	__u32 client[4];
	__u32 vip[4];
	__be16 client_port;
	__be16 vip_port;
};

/* The last SYN of a 4-tuple. A hint: it may be missing. */
struct syn {
	__u32 irs;
	__u32 iss;
	__u32 ms;    /* when it was seen */
	__u32 ended; /* the connection that it began has come to its end */
};

struct sack_block {
	__u32 start, end;
};

struct known_sacks {
	struct sack_block b[3];
};

enum conn_flags {
	CONN_ESTABLISHED = 1, /* a socket has been seen */
	CONN_KNOWN = 2,	      /* irs and iss are true: it began here */
	CONN_SYN = 4,	      /* since then another SYN was answered */
};

/* The gate of a connection that is not gated yet but will be as soon as the
 * backup has everything that we have. */
#define GATE_ARMED 0xffffffff

struct conn {
	/* An ACK number in the upper half, the right edge of the window in the
	 * lower half. 0: not known yet. Neither half ever goes back. */
	__u64 own;  /* what our kernel has emitted last; written by egress */
	__u64 peer; /* the same of the backup, from its shadows; ingress */
	__u64 out;  /* what the client has been shown; by both, as a hint */

	__u32 irs, iss;	 /* the initial sequence numbers */
	__u32 cl_ack;	 /* the highest ACK of the client, before the clamp; ingress */
	__u32 told;	 /* ... of which our kernel has heard; by both */
	__u32 cl_nxt;	 /* the highest end of the client's segments; ingress */
	__u32 cl_tsval;	 /* the highest TSval of the client; ingress */
	__u32 own_nxt;	 /* the highest end of our own segments; egress */
	__u32 own_tsval; /* our highest TSval; egress */
	__u32 own_tsecr; /* what we have echoed last; egress */
	__u32 peer_tsecr; /* what the backup has echoed last; ingress */
	__u32 gate;	 /* gated, if equal to the service's generation; 0: not */
	__u32 cl_fin;	 /* the end of the client's FIN, or 0; ingress */
	__u32 own_fin;	 /* the end of our own, or 0; egress */
	__u16 cl_win;	 /* the client's window as it stood in its last ACK */
	__u8 rcv_wscale; /* scale of the windows that we announce */
	__u8 snd_wscale; /* scale of the client's windows */
	__u8 eth[12];	 /* destination and source of the client's last frame */
	enum conn_flags flags;
	struct known_sacks own_sacks;  /* in our last segment; egress */
	struct known_sacks peer_sacks; /* in the backup's; ingress */
	struct sack_block out_sack;    /* the first that the client was shown last; both */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct syn);
} syns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct conn);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, __u8);
} closing SEC(".maps");

/* Where a record is put together: the stack is too small. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conn);
} scratch SEC(".maps");

static __always_inline struct conn *scratch_conn(void)
{
	__u32 zero = 0;
	struct conn *c = bpf_map_lookup_elem(&scratch, &zero);
	if (c)
		__builtin_memset(c, 0, sizeof(*c));
	return c;
}

/* The names of the fields are what user space shows. */
struct tally {
	__u64 syn; /* SYNs answered */
	__u64 assigned; /* connections given to the kernel */
	__u64 assign_error; /* ... refused by it */
	__u64 bad_cookie; /* segments for the listener that prove nothing */
	__u64 replaced; /* old sockets removed for a new connection */
	__u64 implausible; /* segments that are hardly the client's */
	__u64 clamped; /* ACK numbers lowered to snd_nxt */
	__u64 synacked; /* segments that the client had acknowledged already */
	__u64 synack_news; /* ... that left a pure ACK behind */
	__u64 synack_parts; /* segments acknowledged in part */
	__u64 seqfixed; /* pure ACKs given a newer sequence number */
	__u64 guarded_fin; /* FINs that did not leave */
	__u64 guarded_rst; /* RSTs that did not leave */
	__u64 stripped_fin; /* FINs cut off data */
	__u64 passed_fin; /* FINs that left */
	__u64 passed_rst; /* RSTs that left */
	__u64 gate_swallowed; /* our ACKs that were ahead of the backup's */
	__u64 gate_rewritten; /* our segments with a lowered ACK or window */
	__u64 gate_emitted; /* shadows turned into ACKs */
	__u64 gate_silent; /* shadows that told the client nothing new */
	__u64 shadow_seen;
	__u64 shadow_unknown; /* shadows of connections that we do not have */
	__u64 shadow_rst; /* the backup refuses a connection */
	__u64 malformed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} counters SEC(".maps");

#define count(name)                                                                              \
	({                                                                                       \
		__u32 zero = 0;                                                                  \
		struct tally *counted = bpf_map_lookup_elem(&counters, &zero);                \
		if (counted)                                                                     \
			counted->name += 1;                                                      \
	})

/* ---- numbers ---- */

#define AFTER(a, b) ((__s32)((__u32)(a) - (__u32)(b)) > 0)
#define BEFORE(a, b) AFTER(b, a)

static __always_inline __u64 pack(__u32 ack, __u32 edge)
{
	return (__u64)ack << 32 | edge;
}

static __always_inline __u32 ack_of(__u64 v)
{
	return v >> 32;
}

static __always_inline __u32 edge_of(__u64 v)
{
	return v;
}

/* The newer of both halves. */
static __always_inline __u64 newer(__u64 old, __u32 ack, __u32 edge)
{
	if (!old)
		return pack(ack, edge);
	if (BEFORE(ack, ack_of(old)))
		ack = ack_of(old);
	if (BEFORE(edge, edge_of(old)))
		edge = edge_of(old);
	return pack(ack, edge);
}

/* The window field that announces edge behind ack. */
static __always_inline __u16 window_field(__u32 ack, __u32 edge, __u8 scale)
{
	__u32 w = AFTER(edge, ack) ? (edge - ack) >> (scale & 15) : 0;
	return w > 65535 ? 65535 : w;
}

/* The window field as it stands, with its right edge kept, for an ACK number
 * that is lower by n. Rounded up: what is between the two ACK numbers is with
 * the client and must fit. */
static __always_inline __u16 window_behind(__u16 field, __u32 n, __u8 scale)
{
	__u32 w = field + ((n + (1U << (scale & 15)) - 1) >> (scale & 15));
	return w > 65535 ? 65535 : w;
}

static __always_inline __u16 fold(__s64 sum)
{
	__u32 s = sum;
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return s;
}

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* ---- packets ---- */

/* Marks on packets that one program sends to the other. */
#define MARK_EMITTED 0x756e6431	 /* leaves as it is */
#define MARK_INJECTED 0x756e6432 /* goes to the kernel as it is */
#define MARK_AGAIN 0x756e6433	 /* seen before: an old socket was removed */

#define ETH_LEN 14
#define IP_LEN 20
#define TCP_LEN 20
#define MAX_OPTIONS 40

struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr th;
	__u32 l4;	     /* where the TCP header begins */
	__u32 options;	     /* length of its options */
	__u32 payload;
	__u32 tsval, tsecr;  /* 0 without timestamps */
	__u32 ts;	     /* there are timestamps */
};

static __always_inline void swap_addresses(struct ethhdr *eth)
{
	__u8 mac[6];
	__builtin_memcpy(mac, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
}

/* Swallows a packet without TCP hearing of a loss; see VERDICTS. */
static __always_inline int swallow(void)
{
	return bpf_redirect(0, 0);
}

enum parsed {
	PARSED_SEGMENT,
	PARSED_OTHER,  /* not TCP over IPv4, or a fragment */
	PARSED_BROKEN, /* TCP, but not a whole header */
};

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return PARSED_OTHER;
	if (bpf_skb_load_bytes(skb, 0, p, ETH_LEN + IP_LEN))
		return PARSED_OTHER;
	if (p->ip.protocol != IPPROTO_TCP || p->ip.version != 4 || p->ip.ihl < 5)
		return PARSED_OTHER;
	if (p->ip.frag_off & bpf_htons(0x3fff))
		return PARSED_OTHER;
	p->l4 = ETH_LEN + p->ip.ihl * 4;
	if (bpf_skb_load_bytes(skb, p->l4, &p->th, TCP_LEN))
		return PARSED_BROKEN;

	__u32 header = (p->th.offset >> 4) * 4;
	/* The packet may be padded behind its end, so its length is what the
	 * IP header says, unless it is too long to say it (BIG TCP). */
	__u32 total = bpf_ntohs(p->ip.tot_len);
	if (!total)
		total = skb->len - ETH_LEN;
	if (header < TCP_LEN || total < p->ip.ihl * 4 + header)
		return PARSED_BROKEN;
	p->options = header - TCP_LEN;
	p->payload = total - p->ip.ihl * 4 - header;
	return PARSED_SEGMENT;
}

static __always_inline void map_address(__u32 *to, __be32 v4)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = v4;
}

static __always_inline struct service *find_service(__be32 vip, __be16 port)
{
	struct service_key k = {.port = port};
	map_address(k.vip, vip);
	return bpf_map_lookup_elem(&services, &k);
}

static __always_inline void set_tuple(struct tuple *t, __be32 client, __be16 client_port,
				      __be32 vip, __be16 vip_port)
{
	map_address(t->client, client);
	map_address(t->vip, vip);
	t->client_port = client_port;
	t->vip_port = vip_port;
}

struct options {
	__u32 tsval, tsecr;
	__u16 mss;
	__u8 wscale; /* 15: none */
	__u8 sack;
	__u8 ts;
};

#define NO_WSCALE 15

struct options_reader {
	__u8 b[MAX_OPTIONS + 12];
	__u32 len, i;
	bool broken;
	struct options o;
};

/* Reads one option. A callback, as the verifier would otherwise follow every
 * sequence of options that there can be. */
static long read_option(__u32 n, struct options_reader *r)
{
	__u32 i = r->i;
	if (i >= r->len || i >= MAX_OPTIONS)
		return 1;
	__u8 *b = r->b + i;
	if (b[0] == 0)
		return 1;
	if (b[0] == 1) {
		r->i = i + 1;
		return 0;
	}
	if (b[1] < 2 || i + b[1] > r->len) {
		r->broken = true;
		return 1;
	}
	if (b[0] == 2 && b[1] == 4) {
		r->o.mss = b[2] << 8 | b[3];
	} else if (b[0] == 3 && b[1] == 3) {
		r->o.wscale = b[2] > 14 ? 14 : b[2];
	} else if (b[0] == 4 && b[1] == 2) {
		r->o.sack = 1;
	} else if (b[0] == 8 && b[1] == 10) {
		r->o.ts = 1;
		r->o.tsval = (__u32)b[2] << 24 | b[3] << 16 | b[4] << 8 | b[5];
		r->o.tsecr = (__u32)b[6] << 24 | b[7] << 16 | b[8] << 8 | b[9];
	}
	r->i = i + b[1];
	return 0;
}

/* Reads the options of a handshake. */
FUNCTION int parse_options(struct __sk_buff *skb, struct packet *p NONNULL, struct options *o NONNULL)
{
	struct options_reader r = {.len = p->options, .o = {.mss = 536, .wscale = NO_WSCALE}};
	if (r.len >= 1 && r.len <= MAX_OPTIONS) {
		if (bpf_skb_load_bytes(skb, p->l4 + TCP_LEN, r.b, r.len))
			return -1;
		bpf_loop(MAX_OPTIONS, read_option, &r, 0);
	}
	*o = r.o;
	return r.broken ? -1 : 0;
}

#define TS_PREFIX bpf_htonl(0x0101080a) /* NOP NOP TS, 10 bytes */

/* Reads the timestamps of an established connection, where everybody puts them. */
static __always_inline void read_timestamps(struct __sk_buff *skb, struct packet *p)
{
	__be32 w[3];
	if (p->options < sizeof(w) || bpf_skb_load_bytes(skb, p->l4 + TCP_LEN, w, sizeof(w)) || w[0] != TS_PREFIX)
		return;
	p->ts = 1;
	p->tsval = bpf_ntohl(w[1]);
	p->tsecr = bpf_ntohl(w[2]);
}

/* A segment without payload. Bytes behind its options must be zero. */
struct segment {
	struct tcphdr th;
	__u8 options[MAX_OPTIONS];
};

static __always_inline int load_options(struct __sk_buff *skb, struct packet *p, struct segment *s)
{
	__u32 n = p->options;
	if (n < 4)
		return 0;
	if (n > MAX_OPTIONS)
		return -1;
	return bpf_skb_load_bytes(skb, p->l4 + TCP_LEN, s->options, n) ? -1 : 0;
}

/* Makes the packet consist of these headers and nothing else. p->ip has the
 * addresses, without options. */
FUNCTION int write_segment(struct __sk_buff *skb, struct packet *p NONNULL, struct segment *s NONNULL, __u32 options)
{
	if (options > MAX_OPTIONS || p->ip.ihl != 5)
		return -1;

	struct sk_buff *kskb = bpf_cast_to_kern_ctx(skb);
	bool partial = BPF_CORE_READ_BITFIELD(kskb, ip_summed) == CHECKSUM_PARTIAL;

	__u32 length = TCP_LEN + options;
	p->ip.tos = 0;
	p->ip.tot_len = bpf_htons(IP_LEN + length);
	p->ip.id = 0;
	p->ip.frag_off = bpf_htons(0x4000);
	p->ip.ttl = 64;
	p->ip.check = 0;
	p->ip.check = ~fold(bpf_csum_diff(NULL, 0, (void *)&p->ip, IP_LEN, 0));

	struct {
		__be32 source, dest;
		__be16 protocol, length;
	} pseudo = {p->ip.saddr, p->ip.daddr, bpf_htons(IPPROTO_TCP), bpf_htons(length)};
	__s64 sum = bpf_csum_diff(NULL, 0, (void *)&pseudo, sizeof(pseudo), 0);
	s->th.offset = (length / 4) << 4;
	s->th.urg_ptr = 0;
	s->th.check = 0;
	if (partial)
		s->th.check = fold(sum);
	else
		s->th.check = ~fold(bpf_csum_diff(NULL, 0, (void *)s, sizeof(*s), sum));

	if (bpf_skb_change_tail(skb, ETH_LEN + IP_LEN + length, 0))
		return -1;
	if (bpf_skb_store_bytes(skb, 0, p, ETH_LEN + IP_LEN, 0))
		return -1;
	if (bpf_skb_store_bytes(skb, ETH_LEN + IP_LEN, &s->th, TCP_LEN, 0))
		return -1;
	if (options >= 4 && options <= MAX_OPTIONS)
		if (bpf_skb_store_bytes(skb, ETH_LEN + IP_LEN + TCP_LEN, s->options, options, 0))
			return -1;
	return 0;
}

#define FIELD(name) __builtin_offsetof(struct tcphdr, name)

/* Changes one field of the packet's TCP header and its checksum. */
#define CHANGE(skb, p, name, value)                                                              \
	({                                                                                       \
		typeof((p)->th.name) to = (value), from = (p)->th.name;                          \
		bpf_l4_csum_replace(skb, (p)->l4 + FIELD(check), from, to, sizeof(to));          \
		bpf_skb_store_bytes(skb, (p)->l4 + FIELD(name), &to, sizeof(to), 0);             \
		(p)->th.name = to;                                                               \
	})

static __always_inline void change_flags(struct __sk_buff *skb, struct packet *p, __u8 flags)
{
	/* Checksums are made of 16-bit words. */
	__u8 from[2] = {p->th.offset, p->th.flags}, to[2] = {p->th.offset, flags};
	bpf_l4_csum_replace(skb, p->l4 + FIELD(check), *(__u16 *)from, *(__u16 *)to, 2);
	bpf_skb_store_bytes(skb, p->l4 + FIELD(flags), &flags, 1, 0);
	p->th.flags = flags;
}

/* ---- align ---- */

static const __u16 mss_classes[8] = {536, 1220, 1300, 1360, 1400, 1440, 1460, 8960};

#define MSS_MASK 7

static __always_inline __u8 mss_class(__u16 mss)
{
	__u8 c = 0;
	for (int i = 1; i < 8; i++)
		if (mss >= mss_classes[i])
			c = i;
	return c;
}

/* What the initial sequence number is made of. The connection's numbers must
 * not be guessable, nor match a segment from the middle of another connection,
 * hence the client's number in it. */
FUNCTION __u32 cookie(const struct tuple *t NONNULL, __u32 irs, __u32 ts, __u64 k0, __u64 k1)
{
	struct siphash s;
	siphash_init(&s, k0, k1);
	siphash_word(&s, (__u64)bpf_ntohl(t->client[0]) << 32 | bpf_ntohl(t->client[1]));
	siphash_word(&s, (__u64)bpf_ntohl(t->client[2]) << 32 | bpf_ntohl(t->client[3]));
	siphash_word(&s, (__u64)bpf_ntohl(t->vip[0]) << 32 | bpf_ntohl(t->vip[1]));
	siphash_word(&s, (__u64)bpf_ntohl(t->vip[2]) << 32 | bpf_ntohl(t->vip[3]));
	siphash_word(&s, (__u64)bpf_ntohs(t->client_port) << 48 | (__u64)bpf_ntohs(t->vip_port) << 32 | irs);
	siphash_word(&s, 41ULL << 56 | ts);
	return siphash_final(&s);
}

/* The clock of the TSvals in our SYN-ACKs. It is the time of day, so that the
 * two servers agree as well as their clocks do. */
static __always_inline __u32 wall_ms(void)
{
	return bpf_ktime_get_tai_ns() / 1000000;
}

static __always_inline __u32 boot_ms(void)
{
	return bpf_ktime_get_ns() / 1000000;
}

#define SYN_ACK_OPTIONS 20
#define SYN_ACK_WINDOW 64240

FUNCTION int answer_syn(struct __sk_buff *skb, struct packet *p NONNULL, struct service *svc NONNULL)
{
	struct tuple tuple, *t = &tuple;
	set_tuple(t, p->ip.saddr, p->th.source, p->ip.daddr, p->th.dest);
	if (!(svc->flags & SERVICE_ALIGN)) {
		bpf_map_delete_elem(&closing, t);
		bpf_map_delete_elem(&conns, t);
		return TCX_NEXT;
	}
	struct options o = {};
	if ((p->th.flags & (TCP_ACK | TCP_RST | TCP_FIN)) || p->ip.ihl != 5 || parse_options(skb, p, &o)) {
		count(malformed);
		return TCX_DROP;
	}
	__u32 irs = bpf_ntohl(p->th.seq);
	__u32 code = mss_class(o.mss < svc->mss ? o.mss : svc->mss);
	if (!o.ts)
		code |= o.sack << 3 | o.wscale << 4;
	__u32 iss = cookie(t, irs, o.ts, svc->secret[0], svc->secret[1]) ^ code;

	struct syn seen = {.irs = irs, .iss = iss, .ms = boot_ms()};
	bpf_map_update_elem(&syns, t, &seen, BPF_ANY);
	struct conn *c = bpf_map_lookup_elem(&conns, t);
	if (c)
		c->flags |= CONN_SYN;

	struct segment s = {};
	s.th.source = p->th.dest;
	s.th.dest = p->th.source;
	s.th.seq = bpf_htonl(iss);
	s.th.ack_seq = bpf_htonl(irs + 1);
	s.th.flags = TCP_SYN | TCP_ACK;
	s.th.window = bpf_htons(SYN_ACK_WINDOW);
	__u8 *b = s.options;
	b[0] = 2;
	b[1] = 4;
	b[2] = svc->mss >> 8;
	b[3] = svc->mss;
	b[4] = b[5] = 1;
	if (o.sack) {
		b[4] = 4;
		b[5] = 2;
	}
	if (o.ts) {
		__be32 tsval = bpf_htonl((wall_ms() & ~0x1f) | o.sack << 4 | o.wscale);
		__be32 tsecr = bpf_htonl(o.tsval);
		b[6] = 8;
		b[7] = 10;
		__builtin_memcpy(b + 8, &tsval, 4);
		__builtin_memcpy(b + 12, &tsecr, 4);
	} else {
		for (int i = 6; i < 16; i++)
			b[i] = 1;
	}
	b[16] = b[17] = b[18] = b[19] = 1;
	if (o.wscale != NO_WSCALE) {
		b[17] = 3;
		b[18] = 3;
		b[19] = svc->wscale;
	}

	__be32 client = p->ip.saddr;
	p->ip.saddr = p->ip.daddr;
	p->ip.daddr = client;
	swap_addresses(&p->eth);
	if (write_segment(skb, p, &s, SYN_ACK_OPTIONS)) {
		count(malformed);
		return TCX_DROP;
	}
	count(syn);
	skb->mark = MARK_EMITTED;
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * How long ago, in ms, the client got the SYN-ACK that it echoes here. Both
 * servers let the connection's timestamp clock run from the SYN-ACK on, as the
 * kernel does, so both clocks agree even if one server learns of the
 * connection later than the other (its copy of the ACK was lost). The time
 * since the SYN is best, as both servers have seen it in the same moment. If
 * it was lost on its way here, the servers' clocks must do.
 */
static __always_inline __u32 elapsed(const struct syn *seen, __u32 irs, __u32 tsecr)
{
	__u32 ms;
	if (seen && seen->irs == irs)
		ms = boot_ms() - seen->ms;
	else
		ms = wall_ms() - (tsecr & ~0x1f);
	return ms < 120000 ? ms : 0;
}

/* Begins a connection, if the segment proves that the client has our SYN-ACK. */
static __noinline int begin(struct __sk_buff *skb, struct packet *p, struct service *svc, struct tuple *t,
			    struct bpf_sock *listener)
{
	struct conn *c = bpf_map_lookup_elem(&conns, t);
	struct syn *seen = bpf_map_lookup_elem(&syns, t);
	__u32 seq = bpf_ntohl(p->th.seq), ack = bpf_ntohl(p->th.ack_seq);
	__u32 irs = seq - 1, iss = ack - 1;

	/* A late copy of the first segment of a connection that has ended. */
	if ((c && c->irs == irs && c->iss == iss && (c->flags & CONN_ESTABLISHED)) ||
	    (seen && seen->irs == irs && seen->iss == iss && seen->ended)) {
		count(bad_cookie);
		return 0;
	}
	struct options o = {};
	if (parse_options(skb, p, &o)) {
		count(malformed);
		return 0;
	}
	__u32 mask = o.ts ? MSS_MASK : 0xff;
	__u32 code = cookie(t, irs, o.ts, svc->secret[0], svc->secret[1]) ^ iss;
	if (code > mask && (svc->other_secret[0] | svc->other_secret[1]))
		code = cookie(t, irs, o.ts, svc->other_secret[0], svc->other_secret[1]) ^ iss;
	if (code > mask) {
		count(bad_cookie);
		return 0;
	}

	__u8 wscale, sack;
	if (o.ts) {
		wscale = o.tsecr & 15;
		sack = o.tsecr >> 4 & 1;
	} else {
		wscale = code >> 4 & 15;
		sack = code >> 3 & 1;
	}
	struct bpf_tcp_req_attrs attrs = {
		.mss = mss_classes[code & MSS_MASK],
		.sack_ok = sack,
		.tstamp_ok = o.ts,
	};
	if (o.ts) {
		attrs.rcv_tsval = o.tsval;
		attrs.rcv_tsecr = o.tsecr + elapsed(seen, irs, o.tsecr);
	}
	if (wscale != NO_WSCALE) {
		attrs.wscale_ok = 1;
		attrs.snd_wscale = wscale;
		attrs.rcv_wscale = svc->wscale;
	}

	struct tcp_sock *sk = bpf_skc_to_tcp_sock(listener);
	if (!sk || bpf_sk_assign_tcp_reqsk(skb, (struct sock *)sk, &attrs, sizeof(attrs))) {
		count(assign_error);
		return 0;
	}
	count(assigned);

	if (!(c = scratch_conn()))
		return 0;
	c->out = pack(seq, seq + SYN_ACK_WINDOW);
	c->irs = irs;
	c->iss = iss;
	c->cl_ack = ack;
	c->told = ack;
	c->cl_nxt = seq + p->payload + !!(p->th.flags & TCP_FIN);
	c->cl_tsval = c->own_tsecr = c->peer_tsecr = o.tsval;
	c->own_nxt = ack;
	c->gate = svc->flags & SERVICE_GATE ? svc->generation : 0;
	c->cl_win = bpf_ntohs(p->th.window);
	c->rcv_wscale = attrs.rcv_wscale;
	c->snd_wscale = attrs.snd_wscale;
	c->flags = CONN_KNOWN;
	__builtin_memcpy(c->eth, &p->eth, 12);
	bpf_map_update_elem(&conns, t, c, BPF_ANY);
	bpf_map_delete_elem(&closing, t);
	return 0;
}

/*
 * Removes the socket that is in the way of a new connection, which waits for
 * rcv_nxt, and lets the segment come back behind the RST that does it.
 */
static __always_inline int replace(struct __sk_buff *skb, struct packet *p, __u32 rcv_nxt)
{
	__be32 seq = p->th.seq;
	__u8 flags = p->th.flags;

	CHANGE(skb, p, seq, bpf_htonl(rcv_nxt));
	change_flags(skb, p, TCP_RST);
	skb->mark = MARK_INJECTED;
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	CHANGE(skb, p, seq, seq);
	change_flags(skb, p, flags);
	skb->mark = MARK_AGAIN;
	count(replaced);
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Does the segment begin a connection whose SYN we have just answered? */
static __always_inline bool begins_anew(struct packet *p, struct tuple *t, struct conn *c)
{
	__u32 irs = bpf_ntohl(p->th.seq) - 1, iss = bpf_ntohl(p->th.ack_seq) - 1;
	if (c && c->irs == irs && c->iss == iss)
		return false;
	struct syn *seen = bpf_map_lookup_elem(&syns, t);
	return seen && seen->irs == irs && seen->iss == iss && !seen->ended;
}

static __always_inline bool gated(const struct service *svc, const struct conn *c)
{
	return (svc->flags & SERVICE_GATE) && c->gate == svc->generation;
}

/*
 * Gives up the record of a connection that has ended: both sides' FINs are
 * acknowledged, by both servers if the gate is on, and our kernel knows. The
 * place is needed for those that live. What remains is that late copies of its
 * first segment do not begin it again.
 */
FUNCTION int forget_if_ended(struct tuple *t NONNULL, struct service *svc NONNULL, struct conn *c NONNULL)
{
	if (!c->cl_fin || !c->own_fin || BEFORE(c->told, c->own_fin))
		return 0;
	__u64 own = READ_ONCE(c->own), peer = READ_ONCE(c->peer);
	if (!own || BEFORE(ack_of(own), c->cl_fin) || (gated(svc, c) && (!peer || BEFORE(ack_of(peer), c->cl_fin))))
		return 0;
	struct syn ended = {.irs = c->irs, .iss = c->iss, .ended = 1};
	bpf_map_update_elem(&syns, t, &ended, BPF_ANY);
	bpf_map_delete_elem(&conns, t);
	return 0;
}

/* ---- the client's segments ---- */

/*
 * What the client of this connection can have sent. Others who guess must not
 * move cl_ack, or we would swallow what the client does not have. So both
 * numbers must be near those that we know: within a window of what the client
 * has acknowledged before, and within a window of what we expect from it. Only
 * if its sequence number is exactly the expected one, the ACK number may be far
 * away: this host has missed much.
 */
static __always_inline bool plausible(__u32 rcv_nxt, __u32 snd_una, __u32 known, __u32 seq, __u32 ack,
				      __u8 rcv_wscale, __u8 snd_wscale)
{
	__s32 window = 65535 << (rcv_wscale & 15), flight = 65535 << (snd_wscale & 15);
	__s32 ahead = seq - rcv_nxt, since = ack - known, far = ack - snd_una;
	if (flight < 1 << 20)
		flight = 1 << 20;
	if (ahead < -window || ahead > window)
		return false;
	return (since > -flight && since < flight) || (!ahead && far > -(1 << 30) && far < 1 << 30);
}

static __always_inline void remember(struct __sk_buff *skb, struct packet *p, struct conn *c)
{
	__u32 seq = bpf_ntohl(p->th.seq), ack = bpf_ntohl(p->th.ack_seq);
	__u32 end = seq + p->payload + !!(p->th.flags & TCP_FIN);

	if (!BEFORE(ack, c->cl_ack)) {
		c->cl_ack = ack;
		c->cl_win = bpf_ntohs(p->th.window);
	}
	if (AFTER(end, c->cl_nxt))
		c->cl_nxt = end;
	if (p->th.flags & TCP_FIN)
		c->cl_fin = end;
	read_timestamps(skb, p);
	if (p->ts && AFTER(p->tsval, c->cl_tsval))
		c->cl_tsval = p->tsval;
	c->flags |= CONN_ESTABLISHED;
	__builtin_memcpy(c->eth, &p->eth, 12);
}

FUNCTION int from_client(struct __sk_buff *skb, struct packet *p NONNULL, struct service *svc NONNULL, __u32 again)
{
	struct tuple t;
	set_tuple(&t, p->ip.saddr, p->th.source, p->ip.daddr, p->th.dest);

	if (!(p->th.flags & TCP_ACK) || (p->th.flags & TCP_RST))
		return TCX_NEXT;

	struct bpf_sock_tuple st = {};
	st.ipv4.saddr = p->ip.saddr;
	st.ipv4.daddr = p->ip.daddr;
	st.ipv4.sport = p->th.source;
	st.ipv4.dport = p->th.dest;
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, &st, sizeof(st.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return TCX_NEXT;

	struct conn *c = bpf_map_lookup_elem(&conns, &t);
	bool align = svc->flags & SERVICE_ALIGN;
	__u32 state = sk->state;

	if (state == TCP_LISTEN) {
		if (align)
			begin(skb, p, svc, &t, sk);
		goto out;
	}
	if (state == TCP_NEW_SYN_RECV)
		goto out;
	if (state == TCP_TIME_WAIT) {
		struct tcp_timewait_sock *tw;
		if (align && !again && begins_anew(p, &t, c) && (tw = bpf_skc_to_tcp_timewait_sock(sk))) {
			__u32 rcv_nxt = tw->tw_sk.__tw_common.skc_tw_rcv_nxt;
			bpf_sk_release(sk);
			return replace(skb, p, rcv_nxt);
		}
		goto out;
	}

	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		goto out;
	__u32 snd_nxt = tp->snd_nxt, rcv_nxt = tp->rcv_nxt, snd_una = READ_ONCE(tp->snd_una), known = snd_una;
	__u32 ack = bpf_ntohl(p->th.ack_seq), write_seq = tp->write_seq;
	if (c)
		known = READ_ONCE(c->cl_ack);
	__u8 snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	__u8 rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
	bool likely = plausible(rcv_nxt, snd_una, known, bpf_ntohl(p->th.seq), ack, rcv_wscale, snd_wscale);
	if (align && !again && (!likely || !c || (c->flags & CONN_SYN)) && begins_anew(p, &t, c)) {
		bpf_sk_release(sk);
		return replace(skb, p, rcv_nxt);
	}
	if (!likely) {
		count(implausible);
		goto out;
	}
	bpf_sk_release(sk);

	__u32 tell = ack;
	if (AFTER(ack, snd_nxt)) {
		tell = snd_nxt;
		/* Nobody acknowledges more than a FIN: see to_client. */
		if ((state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_CLOSING) && snd_nxt == write_seq)
			tell--;
	}
	if (c) {
		remember(skb, p, c);
		if (AFTER(tell, c->told))
			c->told = tell;
		forget_if_ended(&t, svc, c);
	} else {
		/* Adopted, or older than we are, or forgotten. */
		if (!(c = scratch_conn()))
			return TCX_NEXT;
		c->cl_ack = ack;
		c->told = tell;
		c->cl_nxt = bpf_ntohl(p->th.seq);
		c->rcv_wscale = rcv_wscale;
		c->snd_wscale = snd_wscale;
		remember(skb, p, c);
		c->own_tsecr = c->peer_tsecr = c->cl_tsval;
		bpf_map_update_elem(&conns, &t, c, BPF_ANY);
	}
	if (tell != ack) {
		__u16 window = window_behind(bpf_ntohs(p->th.window), ack - tell, snd_wscale);
		CHANGE(skb, p, ack_seq, bpf_htonl(tell));
		CHANGE(skb, p, window, bpf_htons(window));
		count(clamped);
	}
	return TCX_NEXT;
out:
	bpf_sk_release(sk);
	return TCX_NEXT;
}

/* ---- the gate ---- */

static __always_inline __u64 exchange(__u64 *to, __u64 v)
{
	return __sync_lock_test_and_set(to, v);
}

/*
 * SACK blocks. What the client is told of data behind a hole must be true for
 * both servers, or it would not send again what one of them misses, until its
 * timer expires and it concludes that the server has thrown the data away.
 */
struct sacks {
	__u32 n;
	struct sack_block b[4];
};

/* The option, with the two NOPs that everybody puts before it. */
struct sack_option {
	__u8 b[4 + 4 * sizeof(struct sack_block)];
};

/* Reads the option if there is one; returns where it is in the packet, or 0. */
static __always_inline __u32 read_sacks(struct __sk_buff *skb, struct packet *p, struct sacks *s)
{
	__u32 at = p->l4 + TCP_LEN + (p->ts ? 12 : 0);
	__u8 h[4];
	if (p->options < (p->ts ? 24 : 12) || bpf_skb_load_bytes(skb, at, h, 4))
		return 0;
	if (h[0] != 1 || h[1] != 1 || h[2] != 5)
		return 0;
	for (int i = 0; i < 4; i++) {
		__be32 b[2];
		if (h[3] < 2 + 8 * (i + 1) || bpf_skb_load_bytes(skb, at + 4 + 8 * i, b, 8))
			break;
		s->b[i].start = bpf_ntohl(b[0]);
		s->b[i].end = bpf_ntohl(b[1]);
		s->n = i + 1;
	}
	return s->n ? at : 0;
}

static __always_inline bool differs(const struct sack_block *a, const struct sack_block *b)
{
	return a->start != b->start || a->end != b->end;
}

static __always_inline void load_sacks(struct sacks *to, const struct known_sacks *s)
{
	to->n = 0;
	for (int i = 0; i < 3; i++) {
		to->b[i] = s->b[i];
		if (s->b[i].start != s->b[i].end)
			to->n = i + 1;
	}
}

static __always_inline void save_sacks(struct known_sacks *to, const struct sacks *s)
{
	for (int i = 0; i < 3; i++)
		to->b[i] = s->b[i];
}

/* Leaves of the blocks what the other server says or has as well, at most room
 * blocks. A block below ack tells of duplicates (DSACK): it is true only if the
 * other server did not need them either. Returns whether such a block is left. */
FUNCTION int common_sacks(struct sacks *s NONNULL, const struct known_sacks *other NONNULL, __u32 ack,
			  __u32 other_ack, __u32 room)
{
	struct sacks both = {};
	int duplicates = 0;
	for (int i = 0; i < 4; i++) {
		if (i >= s->n)
			break;
		struct sack_block b = s->b[i];
		bool duplicate = !AFTER(b.end, ack);
		/* What the other server has acknowledged, then its blocks. */
		for (int j = -1; j < 3; j++) {
			struct sack_block o = {ack, other_ack}, c = b;
			if (j >= 0)
				o = other->b[j];
			else if (duplicate)
				continue;
			if (AFTER(o.start, c.start))
				c.start = o.start;
			if (BEFORE(o.end, c.end))
				c.end = o.end;
			if (!AFTER(c.end, c.start) || both.n >= room || both.n >= 4)
				continue;
			both.b[both.n] = c;
			both.n++;
			duplicates |= duplicate;
		}
	}
	*s = both;
	return duplicates;
}

/* Writes the option into the space of one of k blocks, and NOPs behind it. */
static __always_inline void format_sacks(struct sack_option *o, const struct sacks *s, __u32 k)
{
	__builtin_memset(o, 0, sizeof(*o));
	o->b[0] = o->b[1] = o->b[2] = o->b[3] = 1;
	if (s->n) {
		o->b[2] = 5;
		o->b[3] = 2 + 8 * s->n;
	}
	for (__u32 i = 0; i < 4; i++) {
		__be32 b[2] = {0x01010101, 0x01010101};
		if (i >= k)
			break;
		if (i < s->n) {
			b[0] = bpf_htonl(s->b[i].start);
			b[1] = bpf_htonl(s->b[i].end);
		}
		__builtin_memcpy(o->b + 4 + 8 * i, b, 8);
	}
}

/* Leaves of the SACK blocks of our segment, at `at`, what the backup has too. */
FUNCTION int limit_sacks(struct __sk_buff *skb, struct packet *p NONNULL, struct conn *c NONNULL,
			 struct sacks *s NONNULL, __u32 at)
{
	struct sack_option from, to;
	__u32 k = s->n, ack = bpf_ntohl(p->th.ack_seq);
	__u64 peer = READ_ONCE(c->peer);
	format_sacks(&from, s, k);
	common_sacks(s, &c->peer_sacks, ack, peer ? ack_of(peer) : ack, k);
	format_sacks(&to, s, k);
	__s64 diff = bpf_csum_diff((void *)&from, sizeof(from), (void *)&to, sizeof(to), 0);
	c->out_sack = s->b[0];
	if (!diff)
		return 0;
	bpf_l4_csum_replace(skb, p->l4 + FIELD(check), 0, diff, 0);
	for (__u32 i = 0; i < 9; i++)
		if (i < 1 + 2 * k)
			bpf_skb_store_bytes(skb, at + 4 * i, to.b + 4 * i, 4, 0);
	return 0;
}

/* Writes a pure ACK for the client, with ACK number and window as they stand in
 * p->th, our sequence number and clock, and these SACK blocks. */
FUNCTION int write_ack(struct __sk_buff *skb, struct packet *p NONNULL, struct conn *c NONNULL,
		       const struct sacks *sacks NONNULL)
{
	struct segment s = {.th = p->th};
	__u32 options = 0;

	s.th.flags = TCP_ACK;
	s.th.seq = bpf_htonl(AFTER(c->cl_ack, c->own_nxt) ? c->cl_ack : c->own_nxt);
	if (p->ts) {
		/* Our clock: if theirs were a tick ahead, the client would take
		 * our next segment for one from the past. And the newer echo:
		 * the ACK may be due to what the other server has just got. An
		 * older one would tell the client that it had retransmitted
		 * for nothing (Eifel, RFC 3522), and it would take back what it
		 * believes to be lost. */
		__u32 tsecr = AFTER(c->peer_tsecr, c->own_tsecr) ? c->peer_tsecr : c->own_tsecr;
		__be32 w[3] = {TS_PREFIX, bpf_htonl(c->own_tsval), bpf_htonl(tsecr)};
		__builtin_memcpy(s.options, w, sizeof(w));
		options = sizeof(w);
	}
	if (sacks->n) {
		/* There is room for three, also behind timestamps. */
		__u32 n = sacks->n < 3 ? sacks->n : 3;
		struct sack_option o;
		format_sacks(&o, sacks, n);
		o.b[3] = 2 + 8 * n;
		__builtin_memcpy(s.options + (p->ts ? 12 : 0), o.b, 28);
		options += 4 + 8 * n;
	}
	c->out_sack = sacks->b[0];
	if (write_segment(skb, p, &s, options)) {
		count(malformed);
		return -1;
	}
	return 0;
}

/* A frame of the backup. It never goes any further than here. */
FUNCTION int shadow(struct __sk_buff *skb, struct packet *p NONNULL, struct service *svc NONNULL)
{
	struct tuple t;
	set_tuple(&t, p->ip.daddr, p->th.dest, p->ip.saddr, p->th.source);

	count(shadow_seen);
	if (p->th.flags & TCP_RST)
		count(shadow_rst);
	if ((p->th.flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK)
		return TCX_DROP;
	struct conn *c = bpf_map_lookup_elem(&conns, &t);
	if (!c) {
		count(shadow_unknown);
		return TCX_DROP;
	}

	__u32 ack = bpf_ntohl(p->th.ack_seq);
	__u32 edge = ack + ((__u32)bpf_ntohs(p->th.window) << (c->rcv_wscale & 15));
	__u64 old = READ_ONCE(c->peer), peer = newer(old, ack, edge);
	if (peer != old) {
		exchange(&c->peer, peer);
		forget_if_ended(&t, svc, c);
	}
	__u64 own = READ_ONCE(c->own);
	struct sacks sacks = {};
	read_timestamps(skb, p);
	if (p->ts)
		c->peer_tsecr = p->tsecr;
	read_sacks(skb, p, &sacks);
	save_sacks(&c->peer_sacks, &sacks);

	if (!gated(svc, c)) {
		/* The backup has all that we have: from here on it is gated. */
		if ((svc->flags & SERVICE_GATE) && c->gate == GATE_ARMED && own && !BEFORE(ack, ack_of(own))) {
			c->out = own;
			c->gate = svc->generation;
		}
		return TCX_DROP;
	}

	if (!own)
		return TCX_DROP;
	__u32 shown = edge_of(peer);
	if (AFTER(shown, edge_of(own)))
		shown = edge_of(own);
	bool data = p->payload || (p->th.flags & TCP_FIN), news, duplicates = false;
	if (AFTER(ack, ack_of(own))) {
		/* We are the slower one. We have spoken, unless it was swallowed
		 * because the backup was behind until now. */
		ack = ack_of(own);
		news = AFTER(ack, ack_of(c->out)) || AFTER(shown, edge_of(c->out));
		load_sacks(&sacks, &c->own_sacks);
		duplicates = common_sacks(&sacks, &c->peer_sacks, ack, ack_of(peer), 3);
		news |= sacks.n && differs(&sacks.b[0], &c->out_sack);
		data = true;
	} else {
		news = peer != old || (ack == ack_of(own) && AFTER(shown, edge_of(c->out)));
		duplicates = common_sacks(&sacks, &c->own_sacks, ack, ack_of(own), 3);
	}
	/* It tells nothing new, and is no duplicate ACK either, which would tell
	 * of a hole: it is the backup's own output, or we have said the same. */
	if (!news && (data || (ack == ack_of(own) && !duplicates))) {
		count(gate_silent);
		return TCX_DROP;
	}
	c->out = newer(c->out, ack, shown);
	p->th.ack_seq = bpf_htonl(ack);
	p->th.window = bpf_htons(window_field(ack, shown, c->rcv_wscale));
	/* Back to where the client's last frame came from. */
	__builtin_memcpy(p->eth.h_dest, c->eth + 6, 6);
	__builtin_memcpy(p->eth.h_source, c->eth, 6);
	if (write_ack(skb, p, c, &sacks))
		return TCX_DROP;
	count(gate_emitted);
	skb->mark = MARK_EMITTED;
	return bpf_redirect(skb->ifindex, 0);
}

/* What a segment of ours may tell the client. */
struct words {
	__u32 ack;
	__u16 window;
	bool silent; /* nothing at all */
};

static __always_inline void gate(struct conn *c, struct words *w, bool pure)
{
	__u64 peer = READ_ONCE(c->peer);
	__u32 edge = w->ack + ((__u32)w->window << (c->rcv_wscale & 15));
	__u32 peer_ack = peer ? ack_of(peer) : c->irs + 1;

	if (peer && AFTER(edge, edge_of(peer)))
		edge = edge_of(peer);
	if (AFTER(w->ack, peer_ack)) {
		w->ack = peer_ack;
		/* The backup will say it, unless it is our window that opens
		 * and the client has used up half of what it knows of. */
		__u32 shown = edge_of(c->out);
		w->silent = pure && (!AFTER(edge, shown) || (__s32)(shown - c->cl_nxt) > (__s32)(edge - peer_ack) >> 1);
	}
	w->window = window_field(w->ack, edge, c->rcv_wscale);
	if (!w->silent)
		c->out = newer(c->out, w->ack, edge);
}

/* ---- our own segments ---- */

/* The client's acknowledgement of our segment p, up to ack, to our own kernel. */
FUNCTION int acknowledge(struct __sk_buff *skb, struct packet *p NONNULL, struct conn *c NONNULL, __u32 ack)
{
	struct segment s = {};
	__u32 seq = bpf_ntohl(p->th.ack_seq);
	__u32 edge = seq + ((__u32)bpf_ntohs(p->th.window) << (c->rcv_wscale & 15));

	/* A pure ACK of the client has the sequence number of what it sends
	 * next. If our kernel has acknowledged more in the meantime, it would
	 * drop an older one. */
	if (AFTER(c->cl_nxt, seq) && !AFTER(c->cl_nxt, edge))
		seq = c->cl_nxt;
	s.th.source = p->th.dest;
	s.th.dest = p->th.source;
	s.th.seq = bpf_htonl(seq);
	s.th.ack_seq = bpf_htonl(ack);
	s.th.flags = TCP_ACK;
	s.th.window = bpf_htons(window_behind(c->cl_win, AFTER(c->cl_ack, ack) ? c->cl_ack - ack : 0, c->snd_wscale));
	__u32 options = 0;
	if (p->ts) {
		__be32 w[3] = {TS_PREFIX, bpf_htonl(c->cl_tsval), bpf_htonl(p->tsval)};
		__builtin_memcpy(s.options, w, sizeof(w));
		options = sizeof(w);
	}
	__be32 client = p->ip.daddr;
	p->ip.daddr = p->ip.saddr;
	p->ip.saddr = client;
	swap_addresses(&p->eth);
	if (write_segment(skb, p, &s, options)) {
		count(malformed);
		return TCX_NEXT;
	}
	skb->mark = MARK_INJECTED;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Sends what a segment that does not leave has to tell, as a pure ACK. */
FUNCTION int send_news(struct __sk_buff *skb, struct packet *p NONNULL, struct conn *c NONNULL,
		       const struct words *w NONNULL)
{
	struct segment s = {.th = p->th};
	s.th.flags = TCP_ACK;
	s.th.seq = bpf_htonl(c->cl_ack);
	s.th.ack_seq = bpf_htonl(w->ack);
	s.th.window = bpf_htons(w->window);
	if (load_options(skb, p, &s) || write_segment(skb, p, &s, p->options))
		return -1;
	count(synack_news);
	skb->mark = MARK_EMITTED;
	return bpf_clone_redirect(skb, skb->ifindex, 0);
}

static __always_inline int to_client(struct __sk_buff *skb, struct packet *p, struct service *svc)
{
	struct tuple t;
	set_tuple(&t, p->ip.daddr, p->th.dest, p->ip.saddr, p->th.source);

	__u8 flags = p->th.flags;
	if (flags & TCP_SYN)
		return TCX_NEXT;
	struct conn *c = bpf_map_lookup_elem(&conns, &t);
	bool strict = c && gated(svc, c);
	__u32 seq = bpf_ntohl(p->th.seq), end = seq + p->payload + !!(flags & TCP_FIN);
	bool news = false;

	if (c && (flags & (TCP_ACK | TCP_RST)) == TCP_ACK) {
		__u32 ack = bpf_ntohl(p->th.ack_seq);
		__u64 old = READ_ONCE(c->own);
		__u64 own = newer(old, ack, ack + ((__u32)bpf_ntohs(p->th.window) << (c->rcv_wscale & 15)));
		read_timestamps(skb, p);
		news = own != old;
		if (news)
			exchange(&c->own, own);
		if (AFTER(end, c->own_nxt))
			c->own_nxt = end;
		if (p->ts) {
			if (AFTER(p->tsval, c->own_tsval))
				c->own_tsval = p->tsval;
			c->own_tsecr = p->tsecr;
		}

		/* Nobody acknowledges more than a FIN: this end comes too
		 * early. A backup's process has died before it had written
		 * what the client has got from the active server. */
		if ((flags & TCP_FIN) && BEFORE(end, c->cl_ack)) {
			if (!p->payload) {
				count(guarded_fin);
				return swallow();
			}
			count(stripped_fin);
			flags &= ~TCP_FIN;
			end--;
			change_flags(skb, p, flags);
		}

		/* synack: the client has all of it. */
		if (end != seq && !AFTER(end, c->cl_ack)) {
			count(synacked);
			if (flags & TCP_FIN)
				c->own_fin = end;
			if (AFTER(end, c->told))
				c->told = end;
			forget_if_ended(&t, svc, c);
			struct words w = {.ack = ack, .window = bpf_ntohs(p->th.window)};
			if (news && strict)
				gate(c, &w, true);
			if (news && !w.silent)
				send_news(skb, p, c, &w);
			return acknowledge(skb, p, c, end);
		}
	}

	/* guard */
	if ((flags & (TCP_FIN | TCP_RST)) && (svc->flags & SERVICE_GUARD)) {
		if (bpf_map_lookup_elem(&closing, &t)) {
			if (flags & TCP_RST)
				count(passed_rst);
			else
				count(passed_fin);
		} else if (flags & TCP_RST) {
			count(guarded_rst);
			return swallow();
		} else if (!p->payload) {
			count(guarded_fin);
			return swallow();
		} else {
			count(stripped_fin);
			flags &= ~TCP_FIN;
			end--;
			change_flags(skb, p, flags);
		}
	}
	if (!c || (flags & (TCP_ACK | TCP_RST)) != TCP_ACK)
		return TCX_NEXT;
	if (flags & TCP_FIN)
		c->own_fin = end;
	if (news)
		forget_if_ended(&t, svc, c);

	/* seqfix, but not for probes, which are one behind on purpose */
	bool pure = end == seq;
	if (pure && AFTER(c->cl_ack, seq)) {
		bool probe = seq + 1 == c->cl_ack;
		struct bpf_sock *sk = skb->sk;
		if (sk && (sk = bpf_sk_fullsock(sk))) {
			struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
			if (tp)
				probe = seq + 1 == tp->snd_una;
		}
		if (!probe) {
			CHANGE(skb, p, seq, bpf_htonl(c->cl_ack));
			count(seqfixed);
		}
	}

	if (strict) {
		struct words w = {.ack = bpf_ntohl(p->th.ack_seq), .window = bpf_ntohs(p->th.window)};
		struct sacks sacks = {};
		__u32 at = read_sacks(skb, p, &sacks), own_ack = w.ack;
		save_sacks(&c->own_sacks, &sacks);
		gate(c, &w, pure);
		if (w.silent) {
			/* The backup has spoken of what was behind a hole of
			 * its own before we had it: now it can be said. The
			 * client measures the path by it. */
			load_sacks(&sacks, &c->peer_sacks);
			common_sacks(&sacks, &c->own_sacks, w.ack, own_ack, 3);
			if (!sacks.n || !differs(&sacks.b[0], &c->out_sack)) {
				count(gate_swallowed);
				return swallow();
			}
			p->th.ack_seq = bpf_htonl(w.ack);
			p->th.window = bpf_htons(w.window);
			count(gate_rewritten);
			return write_ack(skb, p, c, &sacks) ? TCX_DROP : TCX_NEXT;
		}
		if (p->th.ack_seq != bpf_htonl(w.ack) || p->th.window != bpf_htons(w.window)) {
			CHANGE(skb, p, ack_seq, bpf_htonl(w.ack));
			CHANGE(skb, p, window, bpf_htons(w.window));
			count(gate_rewritten);
		}
		if (at)
			limit_sacks(skb, p, c, &sacks, at);
	}

	/* synack for the first part of a segment */
	if (!pure && BEFORE(seq, c->cl_ack)) {
		count(synack_parts);
		skb->mark = MARK_EMITTED;
		bpf_clone_redirect(skb, skb->ifindex, 0);
		return acknowledge(skb, p, c, c->cl_ack);
	}
	return TCX_NEXT;
}

/* ---- programs ---- */

SEC("tcx/ingress")
int ingress(struct __sk_buff *skb)
{
	bool again = false;
	switch (skb->mark) {
	case MARK_INJECTED:
		skb->mark = 0;
		return TCX_NEXT;
	case MARK_AGAIN:
		skb->mark = 0;
		again = true;
	}

	struct packet p = {};
	enum parsed parsed = parse(skb, &p);
	if (parsed == PARSED_OTHER)
		return TCX_NEXT;
	if (parsed == PARSED_BROKEN) {
		count(malformed);
		return TCX_NEXT;
	}
	struct service *svc = find_service(p.ip.daddr, p.th.dest);
	if (svc && (p.th.flags & TCP_SYN))
		return answer_syn(skb, &p, svc);
	if (svc)
		return from_client(skb, &p, svc, again);
	svc = find_service(p.ip.saddr, p.th.source);
	if (svc)
		return shadow(skb, &p, svc);
	return TCX_NEXT;
}

SEC("tcx/egress")
int egress(struct __sk_buff *skb)
{
	if (skb->mark == MARK_EMITTED) {
		skb->mark = 0;
		return TCX_NEXT;
	}
	struct packet p = {};
	if (parse(skb, &p) != PARSED_SEGMENT)
		return TCX_NEXT;
	struct service *svc = find_service(p.ip.saddr, p.th.source);
	if (svc)
		return to_client(skb, &p, svc);
	return TCX_NEXT;
}

/*
 * The exact state of one socket, for BPF_PROG_TEST_RUN. The packet is an
 * Ethernet header, a request, and space for the answer. The fields are read
 * one by one without the socket's lock: each is true, but a segment may have
 * come in between.
 */
enum operation {
	OP_LOOK,
	OP_UNGATE, /* the connection is not gated any more */
	OP_ARM,	   /* it will be, once the backup has caught up */
};

struct request {
	struct tuple tuple;
	enum operation operation;
};

enum socket_flags {
	SOCKET_FOUND = 1,
	SOCKET_FULL = 2, /* more than its state is known */
	SOCKET_TS = 4,
	SOCKET_WSCALE = 8,
	SOCKET_SACK = 16,
	SOCKET_CONN = 32, /* a record exists */
};

struct socket_state {
	enum socket_flags flags;
	__u32 state;
	__u32 rcv_nxt, copied_seq, rcv_wup, rcv_wnd;
	__u32 snd_una, snd_nxt, write_seq, snd_wl1, snd_wnd, max_window;
	__u32 ts_recent, ts_offset, ts_clock;
	__u32 mss, mss_clamp, advmss;
	__u32 snd_wscale, rcv_wscale;
	__u32 packets_out, total_retrans, retransmits, backoff, srtt_us, snd_cwnd;
	__u32 hole_end; /* where the out-of-order data begins, if there is any */
	__u32 has_hole;
	__u32 cl_ack;
};

static __always_inline __u32 first_out_of_order(struct tcp_sock *tp)
{
	struct rb_node *n = tp->out_of_order_queue.rb_node;
	for (int i = 0; i < 32; i++) {
		struct rb_node *left = BPF_CORE_READ(n, rb_left);
		if (!left)
			break;
		n = left;
	}
	/* tcp_skb_cb begins with the sequence number */
	__u32 seq = 0;
	bpf_probe_read_kernel(&seq, sizeof(seq), (void *)n + bpf_core_field_offset(struct sk_buff, cb));
	return seq;
}

static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, struct tuple *t)
{
	if (!t->client[0] && !t->client[1] && t->client[2] == bpf_htonl(0xffff)) {
		struct bpf_sock_tuple st = {};
		st.ipv4.saddr = t->client[3];
		st.ipv4.daddr = t->vip[3];
		st.ipv4.sport = t->client_port;
		st.ipv4.dport = t->vip_port;
		return bpf_skc_lookup_tcp(skb, &st, sizeof(st.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	struct bpf_sock_tuple6 st = {.sport = t->client_port, .dport = t->vip_port};
	__builtin_memcpy(st.saddr, t->client, sizeof(st.saddr));
	__builtin_memcpy(st.daddr, t->vip, sizeof(st.daddr));
	return bpf_skc_lookup_tcp(skb, (void *)&st, sizeof(st), BPF_F_CURRENT_NETNS, 0);
}

/* Not inlined, so that its types are described in the object. */
static __noinline int look_at(struct __sk_buff *skb, struct request *q, struct socket_state *r)
{
	struct conn *c = bpf_map_lookup_elem(&conns, &q->tuple);
	if (c) {
		r->flags |= SOCKET_CONN;
		r->cl_ack = c->cl_ack;
		if (q->operation == OP_UNGATE)
			c->gate = 0;
		if (q->operation == OP_ARM) {
			c->peer = 0; /* of the backup that was before */
			c->gate = GATE_ARMED;
		}
	}

	struct bpf_sock *sk = find_socket(skb, &q->tuple);
	if (!sk)
		return 0;
	if (sk->state == TCP_LISTEN)
		goto release;
	r->flags |= SOCKET_FOUND;
	r->state = sk->state;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		goto release;
	r->flags |= SOCKET_FULL;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok))
		r->flags |= SOCKET_TS;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok))
		r->flags |= SOCKET_WSCALE;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok))
		r->flags |= SOCKET_SACK;
	r->rcv_nxt = tp->rcv_nxt;
	r->copied_seq = tp->copied_seq;
	r->rcv_wup = tp->rcv_wup;
	r->rcv_wnd = tp->rcv_wnd;
	r->snd_una = tp->snd_una;
	r->snd_nxt = tp->snd_nxt;
	r->write_seq = tp->write_seq;
	r->snd_wl1 = tp->snd_wl1;
	r->snd_wnd = tp->snd_wnd;
	r->max_window = tp->max_window;
	r->ts_recent = tp->rx_opt.ts_recent;
	r->ts_offset = tp->tsoffset;
	r->ts_clock = boot_ms() + tp->tsoffset;
	r->mss = tp->mss_cache;
	r->mss_clamp = tp->rx_opt.mss_clamp;
	r->advmss = tp->advmss;
	r->snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	r->rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
	r->packets_out = tp->packets_out;
	r->total_retrans = tp->total_retrans;
	r->retransmits = tp->inet_conn.icsk_retransmits;
	r->backoff = tp->inet_conn.icsk_backoff;
	r->srtt_us = tp->srtt_us >> 3;
	r->snd_cwnd = tp->snd_cwnd;
	if (tp->out_of_order_queue.rb_node) {
		r->has_hole = 1;
		r->hole_end = first_out_of_order(tp);
	}
release:
	bpf_sk_release(sk);
	return 0;
}

SEC("tc")
int look(struct __sk_buff *skb)
{
	struct request q;
	struct socket_state r = {};
	if (bpf_skb_load_bytes(skb, ETH_LEN, &q, sizeof(q)))
		return -1;
	look_at(skb, &q, &r);
	return bpf_skb_store_bytes(skb, ETH_LEN + sizeof(q), &r, sizeof(r), 0);
}
