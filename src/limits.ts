/**
 * Every bound of Coffer, with its unit and its reason. Nothing grows without end and nothing waits
 * without a deadline; what meets a bound is told so at once. Relations between bounds are asserted
 * when this file loads, so that a careless change stops the process instead of a customer. Sections
 * follow a command's way: from the gateway over the lanes to the database, then what is beside it.
 */
export const LIMITS = {
  // --- Process and deployment --------------------------------------------------------------------

  /** Worker threads of one process: more than any machine that runs Coffer has cores to spare. */
  lanesMax: 64,
  /** Databases of a deployment; each costs every process connections of its own. */
  databasesMax: 16,
  /** Shards of the key space; never changed, since `shardOf` decides where a wallet lives. */
  shardCount: 256,
  /** Pause between two looks at databases whose place was not known at the start. */
  deploymentLookMs: 5_000,
  /** Time to connect for work at the start or by hand, and for a first look at a database. */
  migrationConnectMs: 10_000,
  /** A second signal to end within this time is npm's copy of the first; a later one ends at once. */
  endCopyMs: 1_000,
  /** Time from SIGTERM to exit: accepted commands are answered within it. */
  shutdownMs: 20_000,

  // --- Texts of callers --------------------------------------------------------------------------

  /** Characters of a wallet, owner or asset id. Long enough for `user:asset` pairs of UUIDs. */
  idLengthMax: 128,
  /** Characters of an idempotency key or correlation id. */
  keyLengthMax: 256,
  /** Characters of a description or reason. */
  descriptionLengthMax: 1_024,
  /** UTF-8 bytes of `metadata` as JSON text. It travels with every reply about the wallet. */
  metadataBytesMax: 8_192,
  /** Levels of arrays and objects in `metadata`; canonical writing and PostgreSQL both recurse. */
  metadataDepthMax: 32,
  /** Characters of a hold's reference. */
  holdReferenceLengthMax: 256,
  /** Seconds from now at which a hold may expire at most: ten years. */
  holdSecondsMax: 315_360_000,

  // --- Assets ------------------------------------------------------------------------------------

  /** Own assets of one database: `GET /assets` answers with all of them, without pages. */
  ownAssetsMax: 1_000,
  /** Characters of an asset's name. */
  assetNameLengthMax: 128,
  /** Own assets that a process keeps in memory, about 0.3 KB each. */
  assetsKeptMax: 16_000,
  /** Codes that are looked up at a time, and those who wait to do so; past it `overloaded`. */
  assetQuestionsMax: 256,
  /** Connections of one process to one database for assets: each asset is asked for once. */
  assetConnectionsMax: 2,
  /** Pause before a database that was away is asked again which codes of ISO 4217 it has. */
  assetReviewMs: 1_000,

  // --- HTTP --------------------------------------------------------------------------------------

  /** Connections that wait to be accepted; the system has a bound of its own (Linux: 4,096). */
  httpBacklog: 4_096,
  /**
   * Open connections, feeds among them; further ones are closed at once. Each costs a file and some
   * 20 KB, and the database's connections need files, too.
   */
  httpConnectionsMax: 20_000,
  /** Bytes of one HTTP body. */
  httpBodyBytesMax: 1_048_576,
  /**
   * Bytes of all bodies that are still on their way, by the length that they announce (or may
   * have); those of up to so many bytes are not counted.
   */
  httpBodiesBytesMax: 134_217_728,
  httpSmallBodyBytes: 16_384,
  /** Time for a client to send one request completely; the first one's begins with its connection. */
  httpRequestMs: 30_000,
  /** How often requests are looked at whose time may be over. */
  httpRequestCheckMs: 5_000,
  /** A connection on which nothing moves is closed after this, also during a request. */
  httpSocketIdleMs: 60_000,
  /** A connection may wait this long for a request: longer than load balancers do (60 s). */
  httpKeepAliveMs: 72_000,
  /** The same of a server that is closing: only answers under way when it began leave any. */
  httpClosingKeepAliveMs: 100,
  /**
   * A server that closes answers for this long what comes over open connections, each with the word
   * that it closes: longer than a request is on its way.
   */
  httpDrainMs: 250,
  /**
   * A server that closes ends what is still open after this: all that was under way has its answer
   * by then, and a client that does not take one must not hold up the hand-over of shards.
   */
  httpClosingMs: 14_000,
  /** Wrong fields that one validation error lists; the library stops looking at 8. */
  validationProblemsMax: 8,
  /** One probe of a dependency by a health endpoint. */
  healthCheckMs: 1_000,
  /** Health checks of one database that wait for the connection that they share. */
  healthWaitingMax: 8,
  /** The window in which a client's requests are counted, when there is a rate limit. */
  rateLimitWindowMs: 1_000,
  /** Time for Redis to count a request, and the pause without it when it takes longer. */
  rateLimitRedisMs: 250,
  rateLimitRedisPauseMs: 1_000,
  /** Clients that a gateway counts by itself in one window; the others share one count. */
  rateLimitClientsMax: 50_000,

  // --- Commands, at the gateway's desk -----------------------------------------------------------

  /** How long a command may take, from the gateway's receipt to its answer. */
  commandDeadlineMs: 10_000,
  /** After this long without an answer the gateway sends the same command id again. */
  commandAttemptMs: 3_000,
  /** Pause before a command that found no owner, or no room, goes again: first and longest. */
  commandRetryPauseMs: 50,
  commandRetryPauseMsMax: 500,
  /** How long a gateway in a cluster refuses for a shard that a refusal has named as full. */
  commandShedMs: 1_000,
  /** Times one command is sent, also those that reach nobody; each is one bit of an integer. */
  commandSendsMax: 30,
  /** Times a command may be lost without an answer: one that crashes every lane must end. */
  commandLossesMax: 5,
  /**
   * Commands that leave a gateway together at most: past it they go before the event-loop turn
   * ends, so that lanes and database work while the gateway still reads. Without it a closed loop
   * of clients moves through all stages as one convoy.
   */
  commandBatchMax: 32,
  /** How often a gateway looks for commands that are due again or past their deadline. */
  commandSweepMs: 25,
  /** A command that has not begun this long before its deadline does not begin any more. */
  commandExpiryMarginMs: 500,
  /** A transfer without verdict is answered as pending this long before its deadline. */
  transferPendingMarginMs: 1_000,
  /**
   * Random words of 32 bits drawn at once for ids: drawn for a few at a time they cost more than
   * the ids.
   */
  randomWords: 1_024,
  /** Commands a gateway has under way; past it `overloaded`. */
  gatewayCommandsMax: 20_000,

  // --- Batches -----------------------------------------------------------------------------------

  /** Commands of one batch. */
  batchCommandsMax: 10_000,
  /** Bytes of a batch's body: 10,000 commands of 800 bytes each. */
  batchBodyBytesMax: 8_388_608,
  /** Batches of a process, and bytes of their bodies (as objects five times as much) in all. */
  batchesMax: 32,
  batchesBytesMax: 33_554_432,
  /**
   * Commands under way of one batch, and of all; the rest is left to single commands. Half as many
   * for one batch made small commits: two batches of 10,000 had a tenth fewer commands a second.
   */
  batchWindowMax: 2_048,
  batchesWindowMax: 4_096,
  /** Commands of a batch that begin without a pause for others: a millisecond or two. */
  batchStepCommands: 256,
  /** Characters of outcomes that are written at once, and that may wait behind one that is late. */
  batchPieceChars: 65_536,
  batchUnsentCharsMax: 4_194_304,
  /** Transfers of all batches that are being read back; the rest of the queue is for readers. */
  batchesReadsMax: 128,
  /** No command of a batch begins later than this after the batch did. */
  batchDeadlineMs: 30_000,

  // --- Lanes -------------------------------------------------------------------------------------

  /**
   * Commands a lane has accepted and neither answered nor sent away with a question to another one,
   * by count and by (estimated) bytes.
   */
  laneCommandsMax: 20_000,
  laneBytesMax: 67_108_864,
  /** Messages in one batch to a lane, and batches under way: enough to keep it busy. */
  laneBatchMessagesMax: 1_024,
  laneBatchesMax: 4,
  /** Messages waiting in one actor's mailbox while its wallet is being recovered. */
  mailboxMessagesMax: 10_000,
  /** Messages a lane keeps while its database is away or a commit is full. */
  laneBacklogMax: 40_000,
  /** Messages whose effects go into one commit. */
  commitMessagesMax: 4_096,
  /** Commits of a lane under way at once: one with the database, one that it goes on with. */
  commitsUnderWayMax: 2,
  /**
   * Messages from which on a commit is sent behind another; smaller ones wait and grow, as a commit
   * costs the database 300 us before its first event.
   */
  commitBehindMessagesMin: 40,
  /** Commits in a row that find another writer's rows before a lane gives up on its own memory. */
  staleCommitsMax: 5,
  /** How often lanes hear the time: the grain of expiry, transfer re-drive and passivation. */
  laneTickMs: 100,
  /** Traced commands that a lane tells of with one tick; more have no spans of lane and commit. */
  laneTracesMax: 1_000,
  /**
   * (Estimated) bytes of the actors in a lane's memory: 32,000 wallets without holds. Past it, as
   * the next sweep finds, those unused for longest go first.
   */
  actorsBytesMax: 33_554_432,
  /** What the estimate counts for a wallet, its metadata aside, and for each active hold of it. */
  actorBytes: 1_024,
  holdBytes: 400,
  /**
   * An actor without work for this long is passivated. The next command pays for it: with one
   * command at a time waking takes 0.45 ms, half of what a command takes without.
   */
  actorIdleMs: 300_000,
  /** How often a lane looks for actors that have to go. */
  actorSweepMs: 1_000,
  /** Unsettled transfers one lane drives; past it new transfers are `overloaded`. */
  pendingTransfersMax: 20_000,
  /** First and longest pause between two attempts to get a transfer's verdict. */
  transferDriveMs: 500,
  transferDriveMsMax: 10_000,
  /** Wallets that a lane knows as damaged, and how long it does after it has met one last. */
  damagedWalletsMax: 1_000,
  damageMs: 30_000,
  /** A damaged wallet gets no message for this long after it was met. */
  damagePauseMs: 2_000,
  /**
   * Active holds of one wallet; its actor reads and keeps them in memory. So many, if they are over
   * and none can be spared, may end in one commit with a command that wants their money.
   */
  holdsPerWalletMax: 10_000,
  /** How often a lane looks for holds whose time is over. */
  holdExpiryMs: 500,
  /** Holds that it ends at a time; while there may be more it looks again at once. */
  holdsDueMax: 512,

  // --- The journal, and reads of PostgreSQL ------------------------------------------------------

  /** Pause between attempts to reach PostgreSQL again, first and longest. */
  journalRetryMs: 50,
  journalRetryMsMax: 1_000,
  /** One statement on the write path; beyond it the commit's outcome counts as unknown. */
  journalStatementMs: 10_000,
  /** Time to connect to PostgreSQL, and what a client waits beyond a statement's own bound. */
  journalConnectMs: 3_000,
  /** Connections of one lane for waking actors, besides the one that commits. */
  recoveryConnectionsMax: 2,
  /** One query for a reader (HTTP GET, feed refetch). */
  queryStatementMs: 5_000,
  /** Its wait for a connection: shorter, so that it gives up before slow ones ahead of it end. */
  queryWaitMs: 2_500,
  /** Connections of one process's read pool. */
  queryConnectionsMax: 8,
  /** Queries that wait for one of these connections; past it readers get `overloaded`. */
  queryWaitingMax: 1_000,
  /** Rows of one page for a reader, unless asked otherwise and at most. */
  pageRowsDefault: 50,
  pageRowsMax: 1_000,
  /** Rows of one query: a page, and one more that tells whether another page follows. */
  queryRowsMax: 1_001,
  /** Latest events or transactions that are included with a wallet. */
  includedRows: 20,
  /** Pages that are looked through for included transactions: the latest 1,000,000 versions. */
  includedPagesMax: 100,
  /** Rows that a filter may look at for one page; a short page's `Link` goes on behind them. */
  queryScanRowsMax: 10_000,
  /** The same when each row's words are looked at, which costs 10 to 14 us a row. */
  queryWordRowsMax: 2_000,
  /** What one wallet in so many has is met by walking: a page of 50 in 2,000 rows. */
  queryCommonShare: 40,
  /** Entries of a metadata or word index read though another condition has fewer, 0.2 us each. */
  queryIndexRowsMax: 30_000,
  /** Words of one search that are estimated one by one; the rest is looked for together. */
  queryWordsApart: 8,
  /** Wallets that such an index may bring at once, 5 us each; past it, of the next ones only. */
  queryCandidatesMax: 2_000,
  /** Conditions on metadata in one search. */
  metadataFiltersMax: 8,
  /** Bound of a trial balance, which first adds what is new; callers who may wait for one. */
  trialBalanceMs: 50_000,
  trialBalancesWaitingMax: 4,
  /** Events added to the totals in one transaction: about a second, and what a crash repeats. */
  totalsStepEvents: 100_000,
  /** Events of one shard that a trial balance adds without writing totals: 0.1 s for all. */
  totalsBehindMax: 64,

  // --- Reconciliation and rebuild ----------------------------------------------------------------

  /** Differences of one kind that a reconciliation names; further ones are only counted. */
  verifyNamedPerKindMax: 100,
  /** Events of one read of a reconciliation by hand; about 1 MB. */
  verifyChunkEvents: 2_000,
  /** The same in a host, where every chunk keeps the main thread for a moment. */
  verifyPacedChunkEvents: 200,
  /** Wallets, or transfers, of one page of a reconciliation. */
  verifyPageRows: 500,
  /** Holds of one wallet that a reconciliation remembers; a quarter of a kilobyte each. */
  verifyHoldsMax: 100_000,
  /** One statement of a reconciliation in a host, and time to connect. */
  verifyStatementMs: 10_000,
  /** Pause before what looks wrong between two databases is read again, and how often. */
  verifyRecheckMs: 300,
  verifyRechecks: 2,
  /** A transfer that is pending for longer is named: its payee's shard may be out of service. */
  transferStuckMs: 300_000,
  /** Pause between a host's start and its first reconciliation: a restart has other worries. */
  verifyFirstMs: 60_000,
  /** Pause of a host after a reconciliation that failed, before it begins anew. */
  verifyRetryMs: 60_000,
  /** Events that a rebuild folds while appends wait; more are folded before, again. */
  rebuildTailEventsMax: 500,
  /** A rebuild holds appends up no longer than this, also when its process stops in the middle. */
  rebuildLockMs: 2_000,
  /** Times a rebuild of one wallet begins anew because too much was appended meanwhile. */
  rebuildAttemptsMax: 20,

  // --- The bus -----------------------------------------------------------------------------------

  /** Bytes of one bus message; NATS refuses more than 1 MiB by default. */
  busMessageBytesMax: 1_000_000,
  /** Time for a bus to flush and close. */
  busDrainMs: 2_000,
  /** Messages that wait in the in-process bus: several times what one turn publishes. */
  busQueueMessagesMax: 100_000,
  /** Bytes handed to NATS and not confirmed; the library's own buffers have no bound. */
  busInFlightBytesMax: 33_554_432,
  /** `onUndelivered` callbacks kept per NATS connection; more go without news. */
  busWaitingMax: 65_536,
  /** Pause between two round trips that confirm what was published and let go of its memory. */
  busConfirmMs: 20,
  /** Time for one attempt to connect to NATS. */
  busConnectMs: 5_000,
  /** Pause between attempts to connect to NATS, first time and again. */
  busReconnectMs: 250,
  /** Heartbeat of NATS; two unanswered ones end a connection, so a hang lasts three of these. */
  busHeartbeatMs: 1_500,
  /** So long after it asked a process ends when another deployment answers on its NATS. */
  busGuardMs: 10_000,
  /** A process that starts waits so long for their answers before it takes anything from the bus. */
  busGuardAnswerMs: 250,
  /** A question for other deployments that reached nobody is asked again after this. */
  busGuardRetryMs: 1_000,

  // --- Feeds -------------------------------------------------------------------------------------

  /** WebSocket clients of one gateway, some 10 KB each; past it they are closed with 1013. */
  feedClientsMax: 10_000,
  /** Wallets one client watches, directly and through owners. */
  feedWalletsPerClientMax: 1_000,
  /** Owners one client watches. */
  feedOwnersPerClientMax: 100,
  /** Wallets watched by all clients, counted per client: 0.3 KB each, 1.5 KB if unshared. */
  feedWatchesMax: 250_000,
  /** Bytes of one frame from a client: all wallets it may watch, with ids of 60 characters. */
  feedFrameBytesMax: 65_536,
  /** Frames per second from one client, steadily and at once; past it closed with 1008. */
  feedFramesPerSecond: 100,
  feedFramesBurst: 200,
  /** Wallets and owners that one frame may name; past it, each so many count as a frame more. */
  feedIdsPerFrame: 10,
  /** Bytes of frames for one client that are written together at most. */
  feedWriteBytes: 65_536,
  /** Unsent bytes of a client from which on it gets only the newest state of each wallet. */
  feedBufferedBytesSoft: 262_144,
  /** Unsent bytes at which it is closed with 1013; only its own questions can take it there. */
  feedBufferedBytesMax: 4_194_304,
  /** A client above the soft limit for this long reads nothing; it is closed with 1013. */
  feedSlowMs: 30_000,
  /** How often clients above the soft limit are looked at again. */
  feedDrainCheckMs: 50,
  /** Events further behind than this are not replayed: the client gets a reset snapshot. */
  feedReplayEventsMax: 10_000,
  /** Events in one page of a replay: with those held back, less than the soft limit in bytes. */
  feedReplayPageEvents: 250,
  /** Changes held back per wallet while its journal is read; past it the journal is read again. */
  feedHeldChangesMax: 256,
  /** Wallets in one read of current states. */
  feedReadWalletsMax: 500,
  /** Reads under way of feeds per database, and of owners' lists: half of a read pool in all. */
  feedReadsMax: 3,
  feedListReadsMax: 1,
  /** Pause of the feeds after a failed read, first and longest. */
  feedReadRetryMs: 100,
  feedReadRetryMsMax: 5_000,
  /** Pause between two comparisons with the database, which find a lost last change. */
  feedSweepMs: 5_000,
  /** How long a change that the database has may be on the bus before it counts as lost. */
  feedLagMs: 200,
  /** Pause between two pings to a client; one that has not answered by the next ping is cut off. */
  feedPingMs: 30_000,
  /** Time for a client to answer a close frame before its socket is destroyed. */
  feedCloseMs: 2_000,

  // --- Hosts among each other --------------------------------------------------------------------

  /** Pause between two signs of life of a host, and how long one lasts: three may be lost. */
  heartbeatMs: 500,
  heartbeatTtlMs: 2_000,
  /** Time for one answer of Redis. */
  redisAnswerMs: 500,
  /** How often a host looks who is alive and who owns what. */
  placementMs: 250,
  /** The same of a host without others: nothing moves, and its lanes' appends tell of a loss. */
  placementAloneMs: 1_000,
  /** A host is gone when it was missing for this long besides: one look may be wrong. */
  absenceMs: 750,
  /** A host gets shards of others after this long, so that one that flaps moves nothing. */
  joinSettleMs: 2_000,
  /** After Redis was away nobody counts as gone until everybody could say again that it lives. */
  redisSettleMs: 3_000,
  /** Who took a shard from a host counts as alive there for this long, whatever Redis says. */
  evidenceMs: 10_000,
  /** Shards handed over at once, the next ones after these: how many wallets wait at a time. */
  handOffShardsMax: 32,
  /** How long a host says "not here" for a shard it left: until its successor is subscribed. */
  handOffLingerMs: 300,
  /** A host that ends finishes what is under way this long; the rest is its successor's. */
  handOffQuietMs: 1_000,
  /** A host that ends has this long to hand all its shards over. */
  handOffMs: 3_000,
  /** How often what ends, or gives up shards, looks whether all that was under way is done. */
  drainPollMs: 10,
  /** Latest hand-offs that a host remembers for whoever asks. */
  handOffsKept: 32,
  /** Time for a database's part of the shard table to connect, and to answer: four looks. */
  shardTableMs: 1_000,
  /** Connections to it of one database: the second reads while one waits for a row. */
  shardTableConnectionsMax: 2,
  /** Time for the shard table to answer `GET /cluster`: longer than its own bound. */
  clusterTableMs: 2_000,
  /** Time for hosts to answer a question about the cluster. */
  clusterAnswerMs: 400,

  // --- Events for others -------------------------------------------------------------------------

  /** Shards under way to the stream at once, and events of each: the relay's memory. */
  relayShardsAtOnceMax: 32,
  relayShardRowsMax: 128,
  /** Events of a shard published before the first is acknowledged, where that keeps their order. */
  relayWindowMax: 64,
  /** After a commit the relay waits this long for more of them, then reads. */
  relayGatherMs: 10,
  /** How often the relay looks for events that no commit told it of, and how far behind it is. */
  relaySweepMs: 1_000,
  /** How long a cursor may be unsaved: what it has moved past comes again after a crash. */
  relaySaveMs: 100,
  /** How often the relay compares what it has delivered with the cursors in the database. */
  relayCompareMs: 30_000,
  /** Pause of the relay after the database or JetStream failed it, first and longest. */
  relayRetryMs: 100,
  relayRetryMsMax: 5_000,
  /** Time for JetStream to acknowledge an event, or to tell of the stream. */
  relayAckMs: 5_000,
  /** A host that ends delivers what is committed for this long; the rest is its successor's. */
  relaySettleMs: 1_000,
  /** Connections of the relay to one database (one reads, one saves); bound of a statement. */
  relayConnectionsMax: 2,
  relayStatementMs: 5_000,
  /** JetStream drops an event that comes again within this time (its duplicate window). */
  streamDuplicateWindowMs: 120_000,
  /** Webhooks of a deployment: every host reads the events of its shards once for each. */
  webhooksMax: 32,
  /** Shards whose events are under way to one webhook at once, and events read for one of them. */
  webhookShardsAtOnceMax: 8,
  webhookShardRowsMax: 32,
  /** Time for a webhook to answer one event, from the look-up of its name on. */
  webhookAnswerMs: 10_000,
  /** Bytes of an answer that are read to keep the connection; longer ones cost it. */
  webhookAnswerBytesMax: 65_536,
  /** Pause before a refused event is sent again, doubling: first and longest, plus a quarter. */
  webhookRetryMs: 1_000,
  webhookRetryMsMax: 600_000,
  /** An event refused for this long disables its webhook: longer than a weekend's outage. */
  webhookGiveUpMs: 259_200_000,
  /** Times a replay begins anew because another one was faster. */
  webhookReplayAttemptsMax: 5,
  /** How often a host reads which webhooks there are. */
  webhookLookMs: 1_000,
  /** Characters of a webhook's URL; names in one filter of its events. */
  webhookUrlLengthMax: 2_048,
  webhookFilterMax: 100,

  // --- What operators see ------------------------------------------------------------------------

  /** The same trouble (a server is away, malformed messages) is logged at most this often. */
  troubleLogMs: 10_000,
  /** Subjects denied by NATS that are logged within that time: enough to see whose rules they miss. */
  busDeniedLogMax: 20,
  /** Characters of log lines that wait while the log cannot be written; past it lines are dropped. */
  logWaitingCharsMax: 1_048_576,
  /** A write of the log that takes longer is not waited for when the process exits. */
  logWriteMs: 1_000,
  /** How often the event loop's lag is sampled; each sample wakes an idle process. */
  loopLagSampleMs: 20,
  /** Pause between two round trips to the bus that are only measured. */
  busProbeMs: 2_000,
  /** Spans that wait to be exported; past it new ones are dropped. */
  spansWaitingMax: 8_192,
  /** Pause between two exports of spans. */
  spansPauseMs: 1_000,
  /** Time for the last spans to be exported when the process ends. */
  spansFlushMs: 2_000,
  /** How far the clock may be off the times of spans before it counts as set: more than a pause. */
  clockStepMs: 10,

  // --- Embedded PostgreSQL -----------------------------------------------------------------------

  /** How long a start may take: recovery after a crash replays up to `max_wal_size` of WAL. */
  postgresStartMs: 300_000,
  /** One attempt to connect while PostgreSQL starts, and the pause before the next one. */
  postgresProbeMs: 5_000,
  postgresProbePauseMs: 50,
  /** A fast shutdown writes a checkpoint; past this an immediate one follows and loses nothing. */
  postgresFastShutdownMs: 20_000,
  /** An immediate shutdown, or SIGKILL, writes nothing; past this something is wrong. */
  postgresImmediateShutdownMs: 5_000,
  /** How often a process that was told to end is looked at: finer than a person notices. */
  processPollMs: 10,
  /** The same in an exit handler, which blocks the thread. */
  postgresExitPollMs: 20,
  /** Size in bytes at which `postgres.log` becomes `postgres.log.1`: both stay under twice it. */
  postgresLogBytesMax: 8_388_608,
  /** Lines of PostgreSQL's last words that an error message quotes, with detail and hint. */
  postgresQuotedLinesMax: 12,
  /** Characters of initdb's output kept for the error message, the latest ones. */
  postgresInitOutputCharsMax: 4_096,
  /** Starts on a free port: another process may take it between our look and PostgreSQL's bind. */
  postgresPortAttemptsMax: 5,
} as const;

/** What must hold between them, and why. */
const RELATIONS: Readonly<Record<string, boolean>> = {
  "a process must be able to keep every asset, or commands would look up the same ones again and again":
    LIMITS.assetsKeptMax >= LIMITS.ownAssetsMax * LIMITS.databasesMax,
  "batches must leave most of the room to single commands":
    LIMITS.batchesWindowMax * 4 <= LIMITS.gatewayCommandsMax &&
    LIMITS.batchesWindowMax * 4 <= LIMITS.laneCommandsMax,
  "batches on one hot wallet must fit its mailbox":
    LIMITS.batchesWindowMax < LIMITS.mailboxMessagesMax,
  "every batch that is let in must have something of the room":
    LIMITS.batchBodyBytesMax <= LIMITS.batchesBytesMax &&
    LIMITS.batchesMax <= LIMITS.batchesWindowMax,
  "a connection must outlast the batch it waits for":
    LIMITS.httpSocketIdleMs > LIMITS.batchDeadlineMs + LIMITS.commandDeadlineMs,
  "one commit must hold whatever can be under way to a lane":
    LIMITS.commitMessagesMax >= LIMITS.laneBatchMessagesMax * LIMITS.laneBatchesMax,
  "a commit that is full must not wait for more":
    LIMITS.commitBehindMessagesMin <= LIMITS.commitMessagesMax,
  "what a lane has accepted must fit its backlog when the database goes away":
    LIMITS.laneBacklogMax >= LIMITS.laneCommandsMax + LIMITS.pendingTransfersMax,
  "commands that a full host has refused must ask it again before new ones may":
    LIMITS.commandShedMs > LIMITS.commandRetryPauseMsMax + LIMITS.commandSweepMs,
  "a command needs time for a second attempt":
    LIMITS.commandAttemptMs * 2 < LIMITS.commandDeadlineMs,
  "a pending answer must leave before the deadline and after a normal verdict":
    LIMITS.transferPendingMarginMs < LIMITS.commandAttemptMs,
  "a damaged wallet must be met again before it is taken for mended":
    LIMITS.transferDriveMsMax * 2 + LIMITS.damagePauseMs < LIMITS.damageMs,
  "a crashed host's wallets must answer again within 5 s":
    LIMITS.heartbeatTtlMs + LIMITS.absenceMs + LIMITS.placementMs * 4 < 5_000,
  "after a loss of Redis everybody needs more than one life span to be heard again":
    LIMITS.redisSettleMs > LIMITS.heartbeatTtlMs,
  "a hold must end within 2 s of its time, also when its wallet sleeps":
    LIMITS.holdExpiryMs + LIMITS.laneTickMs < 1_000,
  "holds that end together must fit a backlog and a commit":
    LIMITS.holdsDueMax <= LIMITS.laneBacklogMax && LIMITS.holdsDueMax <= LIMITS.commitMessagesMax,
  "one wallet must not push all others out of a lane's memory":
    LIMITS.actorBytes + LIMITS.holdsPerWalletMax * LIMITS.holdBytes <= LIMITS.actorsBytesMax / 8,
  "a sweep must be no finer than a lane's time, and finer than what it looks for":
    LIMITS.laneTickMs <= LIMITS.actorSweepMs && LIMITS.actorSweepMs < LIMITS.actorIdleMs,
  "shutdown must leave time to read back what the last answers tell":
    LIMITS.shutdownMs > LIMITS.commandDeadlineMs + LIMITS.queryStatementMs + LIMITS.busDrainMs,
  "shutdown must leave time to give the shards up and to say so":
    LIMITS.shutdownMs > LIMITS.commandDeadlineMs + LIMITS.handOffMs + LIMITS.busDrainMs,
  "clients have time to take their answers, and none may take that of what closes after them":
    LIMITS.httpClosingMs > LIMITS.commandDeadlineMs &&
    LIMITS.httpClosingMs + LIMITS.handOffMs + LIMITS.busDrainMs < LIMITS.shutdownMs,
  "a large message must not fill the bus alone":
    LIMITS.busMessageBytesMax * 2 < LIMITS.busInFlightBytesMax,
  "feeds must leave connections of the read pool to HTTP":
    LIMITS.feedReadsMax + LIMITS.feedListReadsMax < LIMITS.queryConnectionsMax,
  "a client that comes back must be able to name at once all that it may watch":
    LIMITS.feedWalletsPerClientMax + LIMITS.feedOwnersPerClientMax <=
    LIMITS.feedFramesBurst * LIMITS.feedIdsPerFrame,
  "what waits to be written together must not make a client slow":
    LIMITS.feedWriteBytes * 2 <= LIMITS.feedBufferedBytesSoft,
  "a client must be slow before it is cut off":
    LIMITS.feedBufferedBytesSoft * 2 < LIMITS.feedBufferedBytesMax,
  "a page of a replay, in frames of 512 bytes, must not make a quick client slow":
    (LIMITS.feedReplayPageEvents + LIMITS.feedHeldChangesMax) * 512 <= LIMITS.feedBufferedBytesSoft,
  "feeds must close before the process does": LIMITS.feedCloseMs < LIMITS.shutdownMs,
  "a rebuild must let go before an append that waits for it gives up":
    LIMITS.rebuildLockMs < LIMITS.journalStatementMs,
  "one row more than a page must be readable": LIMITS.queryRowsMax > LIMITS.pageRowsMax,
  "a connection must outlast the trial balance it waits for":
    LIMITS.httpSocketIdleMs > LIMITS.trialBalanceMs + LIMITS.queryStatementMs,
  "batches on their way must leave room for other bodies":
    LIMITS.httpBodiesBytesMax >= LIMITS.batchesBytesMax + LIMITS.httpBodyBytesMax * 64,
  "only large bodies must need room, and each must find some":
    LIMITS.httpSmallBodyBytes < LIMITS.httpBodyBytesMax &&
    LIMITS.batchBodyBytesMax < LIMITS.httpBodiesBytesMax,
  "a pause must not be shorter than the sweep's grain":
    LIMITS.commandSweepMs <= LIMITS.commandRetryPauseMs,
  "attempts must last until the deadline":
    LIMITS.commandDeadlineMs < LIMITS.commandRetryPauseMsMax * LIMITS.commandSendsMax,
  "an event that is published again after a lost answer must meet the duplicate window":
    LIMITS.relayAckMs * 2 < LIMITS.streamDuplicateWindowMs,
  "a sending is one bit of a small integer": LIMITS.commandSendsMax <= 30,
};

for (const [reason, holds] of Object.entries(RELATIONS)) {
  if (!holds) throw new Error(`limits.ts: ${reason}`);
}
