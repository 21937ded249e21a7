-- What Click has prepared, completed and given back. Amounts are in tiyin, times in milliseconds since 1970, 0 where it has not
-- happened.

CREATE TABLE click_payment (
  number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- `merchant_prepare_id`: Click takes an int, and wants the same one again
  trans bigint UNIQUE,                                  -- `click_trans_id`, one try to pay; null for a mark that we set
  paydoc bigint,                                        -- `click_paydoc_id`, the payment
  order_id uuid NOT NULL,
  amount int NOT NULL,
  prepared_ms bigint NOT NULL,
  confirmed_ms bigint NOT NULL DEFAULT 0,
  cancelled_ms bigint NOT NULL DEFAULT 0,               -- when it was cancelled, or given back
  state smallint NOT NULL CHECK (state IN (0, 1, 2, -1, -2))  -- prepared, confirmed, cancelled, given back; 0: such a mark
);
-- An order is paid once, or closed; tries may be as many as there are.
CREATE UNIQUE INDEX click_payment_settled ON click_payment (order_id) WHERE state IN (0, 2, -2);
CREATE INDEX click_payment_order ON click_payment (order_id);
CREATE INDEX click_payment_changed ON click_payment ((greatest(confirmed_ms, cancelled_ms)));

GRANT SELECT, INSERT ON click_payment TO finalbell_payments;
GRANT UPDATE (state, confirmed_ms, cancelled_ms) ON click_payment TO finalbell_payments;
