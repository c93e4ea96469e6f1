DROP VIEW tp_capital.active_signals;
DROP TABLE tp_capital.signals;
DROP SCHEMA tp_capital;
