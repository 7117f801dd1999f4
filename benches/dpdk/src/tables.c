/*
 * The timed loops over DPDK's tables. Much of DPDK is inline functions, so the loops have to be C.
 * An address without a route is answered with 0. A chained loop makes each address depend on the answer before:
 * `zero` is 0, but the compiler does not know.
 */
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_malloc.h>
#include <rte_vect.h>

/* Takes all memory from ordinary pages, and neither devices nor sockets. The process stays on its CPUs. */
int dpdk_start(const char *megabytes, const char *cpu)
{
	char *arguments[] = { "dpdk", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry",
		"--log-level=4", "--force-max-simd-bitwidth=512", "-m", strdup(megabytes), "-l", strdup(cpu), NULL };
	return rte_eal_init(sizeof(arguments) / sizeof(*arguments) - 1, arguments);
}

size_t dpdk_allocated(void)
{
	struct rte_malloc_socket_stats stats;
	size_t bytes = 0;

	for (int socket = 0; socket < RTE_MAX_NUMA_NODES; socket++)
		if (rte_malloc_get_socket_stats(socket, &stats) == 0)
			bytes += stats.heap_allocsz_bytes;
	return bytes;
}

/* rte_lpm */

struct rte_lpm *dpdk_lpm_new(const char *name, uint32_t rules, uint32_t groups)
{
	struct rte_lpm_config config = { .max_rules = rules, .number_tbl8s = groups };

	return rte_lpm_create(name, SOCKET_ID_ANY, &config);
}

static inline uint32_t lpm_one(const struct rte_lpm *lpm, uint32_t key)
{
	uint32_t hop;

	return rte_lpm_lookup(lpm, key, &hop) == 0 ? hop : 0;
}

void dpdk_lpm_independent(const struct rte_lpm *lpm, const uint32_t *keys, uint32_t *answers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		answers[i] = lpm_one(lpm, keys[i]);
}

void dpdk_lpm_chained(const struct rte_lpm *lpm, const uint32_t *keys, uint32_t *answers, size_t count, uint32_t zero)
{
	uint32_t last = 0;

	for (size_t i = 0; i < count; i++)
		answers[i] = last = lpm_one(lpm, keys[i] ^ (last & zero));
}

void dpdk_lpm_bulk(const struct rte_lpm *lpm, const uint32_t *keys, uint32_t *answers, size_t count)
{
	rte_lpm_lookup_bulk(lpm, keys, answers, count);
	for (size_t i = 0; i < count; i++)
		/* A next hop has 24 bits; the depth is above. */
		answers[i] = answers[i] & RTE_LPM_LOOKUP_SUCCESS ? answers[i] & 0xffffff : 0;
}

/* `count` is a multiple of 4. */
void dpdk_lpm_fours(const struct rte_lpm *lpm, const uint32_t *keys, uint32_t *answers, size_t count)
{
	for (size_t i = 0; i < count; i += 4)
		rte_lpm_lookupx4(lpm, _mm_loadu_si128((const __m128i *)(keys + i)), answers + i, 0);
}

/* rte_fib */

struct rte_fib *dpdk_fib_new(const char *name, int rules, uint32_t groups, int vector)
{
	struct rte_fib_conf config = {
		.type = RTE_FIB_DIR24_8,
		.max_routes = rules,
		/* One bit of a cell says that it is a group's number: 2 bytes hold 15 bits. */
		.dir24_8 = { .nh_sz = groups < 1 << 15 ? RTE_FIB_DIR24_8_2B : RTE_FIB_DIR24_8_4B, .num_tbl8 = groups },
	};
	struct rte_fib *fib = rte_fib_create(name, SOCKET_ID_ANY, &config);

	if (fib != NULL && rte_fib_select_lookup(fib, vector ? RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512 :
						RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO) != 0) {
		rte_fib_free(fib);
		return NULL;
	}
	return fib;
}

void dpdk_fib_independent(struct rte_fib *fib, uint32_t *keys, uint64_t *answers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		rte_fib_lookup_bulk(fib, keys + i, answers + i, 1);
}

void dpdk_fib_chained(struct rte_fib *fib, const uint32_t *keys, uint64_t *answers, size_t count, uint32_t zero)
{
	uint64_t last = 0;

	for (size_t i = 0; i < count; i++) {
		uint32_t key = keys[i] ^ ((uint32_t)last & zero);

		rte_fib_lookup_bulk(fib, &key, &last, 1);
		answers[i] = last;
	}
}

/* rte_fib6 */

struct rte_fib6 *dpdk_fib6_new(const char *name, int rules, uint32_t groups, int vector)
{
	struct rte_fib6_conf config = {
		.type = RTE_FIB6_TRIE,
		.max_routes = rules,
		.trie = { .nh_sz = groups < 1 << 15 ? RTE_FIB6_TRIE_2B : RTE_FIB6_TRIE_4B, .num_tbl8 = groups },
	};
	struct rte_fib6 *fib = rte_fib6_create(name, SOCKET_ID_ANY, &config);

	if (fib != NULL && rte_fib6_select_lookup(fib, vector ? RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512 :
						  RTE_FIB6_LOOKUP_TRIE_SCALAR) != 0) {
		rte_fib6_free(fib);
		return NULL;
	}
	return fib;
}

void dpdk_fib6_independent(struct rte_fib6 *fib, uint8_t (*keys)[16], uint64_t *answers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		rte_fib6_lookup_bulk(fib, keys + i, answers + i, 1);
}

void dpdk_fib6_chained(struct rte_fib6 *fib, const uint8_t (*keys)[16], uint64_t *answers, size_t count, uint32_t zero)
{
	uint64_t last = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t halves[2];

		memcpy(halves, keys[i], sizeof(halves));
		halves[0] ^= last & zero;
		rte_fib6_lookup_bulk(fib, (uint8_t (*)[16])halves, &last, 1);
		answers[i] = last;
	}
}
