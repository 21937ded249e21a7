-- What Payme has begun, performed and cancelled: its protocol has the shop remember it, and asks after it for months.
--
-- Amounts are in tiyin, times in milliseconds since 1970, 0 where it has not happened: as Payme writes them, so that an answer
-- that is given again is the same to the digit.

CREATE TABLE payme_transaction (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- what we call it
  id text COLLATE "C" NOT NULL UNIQUE,                     -- what Payme calls it; `closed/<order>` for a mark that we set
  order_id uuid NOT NULL,
  amount int NOT NULL,
  time_ms bigint NOT NULL,                                 -- when it began, by Payme's clock
  created_ms bigint NOT NULL,                              -- and by ours
  performed_ms bigint NOT NULL DEFAULT 0,
  cancelled_ms bigint NOT NULL DEFAULT 0,
  state smallint NOT NULL CHECK (state IN (0, 1, 2, -1, -2)),  -- created, performed, cancelled before and after; 0: such a mark
  reason smallint                                          -- why it was cancelled
);
-- One at a time, one payment for good, and none once the order is closed.
CREATE UNIQUE INDEX payme_transaction_live ON payme_transaction (order_id) WHERE state IN (0, 1, 2);
CREATE INDEX payme_transaction_order ON payme_transaction (order_id);
CREATE INDEX payme_transaction_time ON payme_transaction (time_ms);
CREATE INDEX payme_transaction_changed ON payme_transaction ((greatest(performed_ms, cancelled_ms)));

GRANT SELECT, INSERT ON payme_transaction TO finalbell_payments;
GRANT UPDATE (state, reason, performed_ms, cancelled_ms) ON payme_transaction TO finalbell_payments;
